"""Set-up of tests and tools: modules of the checkout can be imported, and LIBERO-Plus writes to a cache folder."""

import os
import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parent
PLUGIN = TESTS.parent
SHARED = PLUGIN.parent / "internal"
SDK = PLUGIN.parents[1] / "sdk" / "python"
PATH = os.pathsep.join(str(folder) for folder in (PLUGIN, SHARED, SDK))
for folder in (SDK, SHARED, TESTS, PLUGIN):
    if str(folder) in sys.path:
        sys.path.remove(str(folder))
    sys.path.insert(0, str(folder))
os.environ.setdefault("MUJOCO_GL", "egl")

from libero_sim import locations

locations.redirect_writes("liberoplus")
