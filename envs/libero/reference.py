"""LIBERO's own environment, unmodified, rolled out in a process of its own: what tests and bench.py compare with.

    python reference.py JOB.json OUT.npz

JOB: {"bddl", "state" (a row of start states), "actions" [[7 numbers]], "cameras" (MuJoCo's names), "size",
"wait_steps"}.
OUT: qpos [T, nq], qvel [T, nv], proprio [T, 8], success [T], one uint8 [T, size, size, 3] for each camera, turned
by half a turn, and seconds and cpu_seconds: the time of the T steps with their observations.
"""

from __future__ import annotations

import json
import sys
import time

import numpy as np

import locations


def roll_out(job: dict) -> dict[str, np.ndarray]:
    """Make, seed, reset, set the start state, wait, and take every action, as evaluations on LIBERO do."""
    from libero.libero.envs import OffScreenRenderEnv
    from robosuite.utils.transform_utils import quat2axisangle

    env = OffScreenRenderEnv(
        bddl_file_name=job["bddl"],
        camera_heights=job["size"],
        camera_widths=job["size"],
        camera_names=job["cameras"],
    )
    env.seed(0)
    env.reset()
    env.set_init_state(np.array(job["state"]))
    for _ in range(job["wait_steps"]):
        env.step([0.0] * 6 + [-1.0])
    rows: dict[str, list] = {name: [] for name in ["qpos", "qvel", "proprio", "success", *job["cameras"]]}
    seconds = cpu_seconds = 0.0
    for action in job["actions"]:
        began, cpu_began = time.perf_counter(), time.process_time()
        seen, _, success, _ = env.step(np.array(action))
        seconds += time.perf_counter() - began
        cpu_seconds += time.process_time() - cpu_began
        rows["qpos"].append(env.sim.data.qpos.copy())
        rows["qvel"].append(env.sim.data.qvel.copy())
        turn = quat2axisangle(seen["robot0_eef_quat"].copy())
        rows["proprio"].append(np.concatenate([seen["robot0_eef_pos"], turn, seen["robot0_gripper_qpos"]]))
        rows["success"].append(bool(success))
        for camera in job["cameras"]:
            rows[camera].append(seen[camera + "_image"][::-1, ::-1])
    times = {"seconds": np.array(seconds), "cpu_seconds": np.array(cpu_seconds)}
    return {name: np.array(values) for name, values in rows.items()} | times


if __name__ == "__main__":
    locations.redirect_writes()
    with open(sys.argv[1]) as file:
        job = json.load(file)
    np.savez(sys.argv[2], **roll_out(job))
