"""Test set-up, see paths.py."""

import paths  # noqa: F401
