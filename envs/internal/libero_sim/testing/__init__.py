"""Rollouts and comparisons for the tests and benchmarks of the plugins libero and libero-plus."""
