"""LIBERO-Plus's own environment, unmodified, rolled out in a process of its own: what the tests compare with.

    python reference.py JOB.json OUT.npz

JOB: {"variant" (an id), "start_state", "actions" [[7 numbers]], "cameras" (MuJoCo's names), "size", "wait_steps",
"keep_arm", "seed"}. It is used as the benchmark's evaluations use it, with two exceptions: NumPy's global generator is
seeded before each frame with ``noise.number``, and with keep_arm the start state gets the arm's joints of the reset.
OUT: as ``reference.py`` of libero.
"""

from __future__ import annotations

import json
import os
import sys
import time

import numpy as np

import locations
import noise
import package_tree
import variants


def roll_out(job: dict) -> dict[str, np.ndarray]:
    """Make, seed, reset, set the start state, wait, and take every action."""
    sys.path.insert(0, str(package_tree.make(package_tree.libero_assets())))
    from liberoplus.liberoplus.envs import OffScreenRenderEnv
    from robosuite.utils.transform_utils import quat2axisangle

    variant = variants.by_id()[job["variant"]]
    env = OffScreenRenderEnv(
        bddl_file_name=os.path.join(variants.package_root(), "bddl_files", variant.suite, _file(variant)),
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
    rows: dict[str, list] = {name: [] for name in ["qpos", "qvel", "proprio", "success", *job["cameras"]]}
    began = time.perf_counter()
    for index, action in enumerate(job["actions"]):
        np.random.seed(noise.number(job["seed"], index + 1))
        seen, _, success, _ = env.step(np.array(action))
        rows["qpos"].append(env.sim.data.qpos.copy())
        rows["qvel"].append(env.sim.data.qvel.copy())
        turn = quat2axisangle(seen["robot0_eef_quat"].copy())
        rows["proprio"].append(np.concatenate([seen["robot0_eef_pos"], turn, seen["robot0_gripper_qpos"]]))
        rows["success"].append(bool(success))
        for camera in job["cameras"]:
            rows[camera].append(seen[camera + "_image"][::-1, ::-1])
    seconds = np.array(time.perf_counter() - began)
    words = np.array(env.language_instruction)
    return {name: np.array(values) for name, values in rows.items()} | {"seconds": seconds, "instruction": words}


def _file(variant: variants.Variant) -> str:
    """The name that the benchmark's wrapper is given; it takes it apart again."""
    return variant.name + ".bddl"


if __name__ == "__main__":
    locations.redirect_writes("liberoplus")
    with open(sys.argv[1]) as file:
        job = json.load(file)
    np.savez(sys.argv[2], **roll_out(job))
