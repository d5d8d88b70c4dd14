"""Test set-up: the plugin's folder and the SDK on the path."""

import sys
from pathlib import Path

PLUGIN = Path(__file__).resolve().parents[1]
SDK = PLUGIN.parents[1] / "sdk" / "python"
for folder in (SDK, PLUGIN):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
