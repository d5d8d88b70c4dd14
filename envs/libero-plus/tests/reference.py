"""Rolls out LIBERO-Plus's unmodified environment in this process, for comparison with the plugin's lane.

    python reference.py JOB.json OUT.npz

JOB: {"variant": id, "start_state": number, "actions": [[7 numbers], ...], "cameras": MuJoCo's names,
"size": pixels, "wait_steps": number, "keep_arm": bool, "seed": number}. The environment is used as in the benchmark's
evaluations, with two exceptions: NumPy's global generator is seeded with ``noise.frame_seed`` before each frame, and
with keep_arm the arm keeps the joints of the reset. OUT: the arrays of ``libero_sim.testing.rollout.roll_out`` and the
instruction.
"""

from __future__ import annotations

import json
import os
import sys

import paths  # noqa: F401  first: it sets the import path and redirects the libraries' writes

# isort: split
import numpy as np

import noise
import package_tree
import variants
from libero_sim.testing.rollout import roll_out


def run(job: dict) -> dict[str, np.ndarray]:
    """Make, seed and reset the environment, set the start state, wait, and execute every action."""
    sys.path.insert(0, str(package_tree.make(package_tree.libero_assets())))
    from liberoplus.liberoplus.envs import OffScreenRenderEnv

    variant = variants.by_id()[job["variant"]]
    env = OffScreenRenderEnv(
        # The benchmark's wrapper parses this name to find the variant.
        bddl_file_name=os.path.join(variants.package_root(), "bddl_files", variant.suite, variant.name + ".bddl"),
        camera_heights=job["size"],
        camera_widths=job["size"],
        camera_names=job["cameras"],
    )
    env.seed(0)
    env.reset()
    state = variant.start_states()[job["start_state"]].copy()
    if job["keep_arm"]:
        state[1:8] = env.sim.data.qpos[:7]
    env.set_init_state(state)
    for _ in range(job["wait_steps"]):
        env.step([0.0] * 6 + [-1.0])

    def seed_noise(index: int) -> None:
        np.random.seed(noise.frame_seed(job["seed"], index + 1))

    rows = roll_out(env, job["actions"], job["cameras"], seed_noise)
    return rows | {"instruction": np.array(env.language_instruction)}


if __name__ == "__main__":
    with open(sys.argv[1]) as file:
        job = json.load(file)
    np.savez(sys.argv[2], **run(job))
