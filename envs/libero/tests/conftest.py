"""Test set-up: the plugin's folder and the SDK on the path, and LIBERO's writes in a temporary folder."""

import os
import sys
from pathlib import Path

PLUGIN = Path(__file__).resolve().parents[1]
SDK = PLUGIN.parents[1] / "sdk" / "python"
for folder in (PLUGIN, SDK):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
os.environ.setdefault("MUJOCO_GL", "egl")

import locations

locations.redirect_writes()
