"""Test set-up: the plugin's folder, libero's beside it and the SDK on the path; writes go to a temporary folder."""

import os
import sys
from pathlib import Path

PLUGIN = Path(__file__).resolve().parents[1]
LIBERO = PLUGIN.parent / "libero"
SDK = PLUGIN.parents[1] / "sdk" / "python"
PATH = os.pathsep.join(str(folder) for folder in (PLUGIN, LIBERO, SDK))
for folder in (SDK, LIBERO, PLUGIN):  # this plugin's modules come before libero's of the same name
    if str(folder) in sys.path:
        sys.path.remove(str(folder))
    sys.path.insert(0, str(folder))
os.environ.setdefault("MUJOCO_GL", "egl")

import locations

locations.redirect_writes("liberoplus")
