"""What holds for every policy that learns, and for pi0 and pi0-fast alike."""

from learner_checks import *  # noqa: F403
from pi_checks import *  # noqa: F403
