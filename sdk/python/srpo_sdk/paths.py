"""Paths that users give in settings."""

from __future__ import annotations

import os

WORKING_FOLDER = "SRPO_WORKING_FOLDER"


def path(given: str) -> str:
    """A path from a setting, made absolute: whoever typed it meant it from the folder where srpo was started (a resumed
    run: where the run was), while a plugin works in the folder of its package. "~" is the home; "" stays "".
    """
    if not given:
        return ""
    return os.path.abspath(os.path.join(os.environ.get(WORKING_FOLDER, ""), os.path.expanduser(given)))
