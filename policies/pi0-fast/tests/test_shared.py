"""What holds for pi0 and pi0-fast alike."""

from pi_checks import *  # noqa: F403
