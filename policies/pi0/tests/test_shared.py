"""What holds for every policy that learns, and for pi0 and pi0-fast alike."""

from vla.testing.learner_checks import *  # noqa: F403
from vla_lerobot.testing.checks import *  # noqa: F403
