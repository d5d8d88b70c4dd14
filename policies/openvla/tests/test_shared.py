"""Tests that hold for every policy with torch."""

from vla.testing.learner_checks import *  # noqa: F403
