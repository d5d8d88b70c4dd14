"""Several processes, one per device."""

from vla.testing.process_checks import *  # noqa: F403
