"""What holds for every policy that learns."""

from learner_checks import *  # noqa: F403
