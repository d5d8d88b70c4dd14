"""In the plugin's environment: writes the checkpoints that both sides load. python checkpoints.py FOLDER"""

import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parents[1]), str(HERE.parents[3] / "sdk" / "python")]

import cases

import tiny

for name, (arguments, _) in cases.CASES.items():
    folder = os.path.join(sys.argv[1], name)
    os.makedirs(folder, exist_ok=True)
    tiny.make(folder, **arguments)
    print(f"{name}: {sum(e.stat().st_size for e in os.scandir(folder)) / 1e6:.1f} MB")
