"""What holds for every policy that learns."""

from vla.testing.learner_checks import *  # noqa: F403
