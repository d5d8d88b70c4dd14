"""Tests that hold for every policy with torch, and for pi0 and pi0-fast."""

from vla.testing.learner_checks import *  # noqa: F403
from vla_lerobot.testing.checks import *  # noqa: F403
