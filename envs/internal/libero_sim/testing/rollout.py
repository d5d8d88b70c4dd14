"""The same rollout by a plugin's lane and by the benchmark's unmodified environment, and their comparison."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from libero_sim.lane import CAMERAS

ROWS = ("qpos", "qvel", "proprio", "success")


def random_actions(count: int, seed: int = 7) -> np.ndarray:
    """Return float32 [count, 7] in [-1, 1]: a random walk, so that the arm covers distance and touches objects."""
    noise = np.random.RandomState(seed).randn(count, 7)
    drift = np.cumsum(noise, axis=0) * 0.15
    actions = np.clip(drift + 0.3 * noise, -1, 1)
    actions[:, 2] = np.clip(actions[:, 2] - 0.4, -1, 1)  # down, towards the table
    actions[:, 6] = np.where(np.arange(count) // 20 % 2, 1.0, -1.0)
    return actions.astype(np.float32)


def by_lane(
    env, task: str, start_state: int, actions: np.ndarray, cameras: list[str], every: int, seed: int = 0
) -> dict:
    """Reset a lane and execute every action, rendering after each ``every``-th.

    Returns the arrays of ``roll_out`` with the frames by srpo's camera names, and "rendered": the indices of the
    rendered steps.
    """
    env.reset(task, start_state, seed=seed)
    rows: dict[str, list] = {name: [] for name in [*ROWS, "rendered", *cameras]}
    seconds = cpu_seconds = 0.0
    for index, action in enumerate(actions):
        began, cpu_began = time.perf_counter(), time.process_time()
        step = env.step(action)
        if (index + 1) % every == 0:
            for camera in cameras:
                rows[camera].append(env.render(camera))
            rows["rendered"].append(index)
        proprio = env.proprio()
        seconds += time.perf_counter() - began
        cpu_seconds += time.process_time() - cpu_began
        data = env._scene.data
        rows["qpos"].append(data.qpos.copy())
        rows["qvel"].append(data.qvel.copy())
        rows["proprio"].append(proprio)
        rows["success"].append(step.success)
    return {name: np.array(values) for name, values in rows.items()} | {"seconds": seconds, "cpu_seconds": cpu_seconds}


def roll_out(
    env, actions, cameras: list[str], before_step: Callable[[int], None] = lambda index: None
) -> dict[str, np.ndarray]:
    """Execute every action in the benchmark's environment, which has been reset and has waited.

    Args:
        actions: [T, 7] numbers in [-1, 1].
        cameras: MuJoCo's camera names.
        before_step: called with the index of each step before the step.

    Returns:
        qpos [T, nq], qvel [T, nv], proprio [T, 8], success [T], uint8 [T, size, size, 3] for each camera rotated by
        180 degrees, and the scalars seconds and cpu_seconds: the time of the T steps with their observations.
    """
    from robosuite.utils.transform_utils import quat2axisangle

    rows: dict[str, list] = {name: [] for name in [*ROWS, *cameras]}
    seconds = cpu_seconds = 0.0
    for index, action in enumerate(actions):
        before_step(index)
        began, cpu_began = time.perf_counter(), time.process_time()
        observation, _, success, _ = env.step(np.array(action))
        seconds += time.perf_counter() - began
        cpu_seconds += time.process_time() - cpu_began
        rows["qpos"].append(env.sim.data.qpos.copy())
        rows["qvel"].append(env.sim.data.qvel.copy())
        rotation = quat2axisangle(observation["robot0_eef_quat"].copy())
        proprio = [observation["robot0_eef_pos"], rotation, observation["robot0_gripper_qpos"]]
        rows["proprio"].append(np.concatenate(proprio))
        rows["success"].append(bool(success))
        for camera in cameras:
            rows[camera].append(observation[camera + "_image"][::-1, ::-1])
    times = {"seconds": np.array(seconds), "cpu_seconds": np.array(cpu_seconds)}
    return {name: np.array(values) for name, values in rows.items()} | times


def in_process(script: Path, job: dict) -> dict[str, np.ndarray]:
    """Run ``script JOB.json OUT.npz`` in a fresh process and return the arrays that it saved."""
    with tempfile.TemporaryDirectory() as folder:
        job_file, out_file = Path(folder) / "job.json", Path(folder) / "out.npz"
        job_file.write_text(json.dumps(job))
        command = [sys.executable, str(script), str(job_file), str(out_file)]
        quiet = subprocess.DEVNULL
        subprocess.run(command, check=True, stdin=quiet, stdout=quiet, stderr=quiet, env=os.environ)
        with np.load(out_file) as out:
            return {name: out[name] for name in out.files}


def differences(ours: dict, reference: dict, cameras: list[str]) -> list[str]:
    """Describe everything that is not bit-identical; an empty list means equal rollouts."""
    found = []
    for name in ("qpos", "qvel", "success"):
        if not np.array_equal(ours[name], reference[name]):
            found.append(f"{name} differs by up to {np.max(np.abs(ours[name] - reference[name].astype(float))):.3g}")
    if not np.array_equal(ours["proprio"], reference["proprio"].astype(np.float32)):
        found.append("proprio differs")
    for camera in cameras:
        expected = reference[CAMERAS[camera]][ours["rendered"]]
        if not np.array_equal(ours[camera], expected):
            share = float(np.mean(ours[camera] != expected))
            found.append(f"{camera}: {share:.1%} of the pixel values differ")
    return found
