"""Several processes."""

from vla.testing.process_checks import *  # noqa: F403
