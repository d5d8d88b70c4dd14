"""Several processes."""

from process_checks import *  # noqa: F403
