"""Paths that users give in settings."""

from __future__ import annotations

import os

WORKING_FOLDER = "SRPO_WORKING_FOLDER"


def path(given: str) -> str:
    """Returns a path from a setting as an absolute path.

    A user types it relative to the folder in which srpo was started (for a resumed run: the folder of the first start),
    but the plugin runs in the folder of its package. "~" is expanded; "" stays "".
    """
    if not given:
        return ""
    return os.path.abspath(os.path.join(os.environ.get(WORKING_FOLDER, ""), os.path.expanduser(given)))
