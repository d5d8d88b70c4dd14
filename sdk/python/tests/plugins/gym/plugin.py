"""A gymnasium environment as a plugin, for the tests."""

import srpo_sdk as srpo

from gym_dot import GymDot  # isort: skip

srpo.serve(GymDot)
