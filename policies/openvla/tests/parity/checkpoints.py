"""Runs in the plugin's environment and writes the checkpoints that both sides load: python checkpoints.py FOLDER

For each case there are two: NAME, and NAME-saved, which the policy saved after it had loaded NAME and been updated.
"""

import os
import shutil
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
PLUGIN = HERE.parents[1]
FOLDERS = [HERE.parent, PLUGIN, PLUGIN.parent / "internal", PLUGIN.parents[1] / "sdk" / "python"]
sys.path[:0] = [str(folder) for folder in FOLDERS]

import cases
import subject
import torch

import tiny

torch.set_num_threads(1)


def size(folder: str) -> str:
    return f"{folder}: {sum(e.stat().st_size for e in os.scandir(folder)) / 1e6:.1f} MB"


for name, (arguments, causal) in cases.CASES.items():
    folder = os.path.join(sys.argv[1], name)
    os.makedirs(folder, exist_ok=True)
    tiny.write(folder, **arguments)
    print(size(folder))

    # The learning rate is so high that no original could confuse the weights with those before the update.
    mask = "auto" if arguments["kind"] == "openvla" else "causal" if causal else "bidirectional"
    p = subject.policy(checkpoint=folder, kind=arguments["kind"], mask=mask, lora_rank=4 if causal else 0, lr=1e-3)
    subject.record(p)
    p.update(subject.update(epochs=4, steps=2 * p.describe().chunk), lambda _: None)
    saved = folder + cases.SAVED
    shutil.rmtree(saved, ignore_errors=True)
    os.makedirs(saved)
    p.save(saved)
    print(size(saved))
