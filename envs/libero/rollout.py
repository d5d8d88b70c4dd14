"""The same rollout by this plugin's lane, and the comparison with ``reference.py``; for tests and bench.py."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import srpo_sdk as srpo

import suites
from lane import CAMERAS
from libero_env import Libero

WAIT_STEPS = 10


def lane(size: int = 256, **settings) -> Libero:
    """A lane with both cameras at ``size`` x ``size``."""
    cameras = dict.fromkeys(CAMERAS, (size, size))
    return Libero(srpo.EnvConfig(settings=Libero.info.resolve(settings), cameras=cameras))


def random_actions(count: int, seed: int = 7) -> np.ndarray:
    """float32 [count, 7] in [-1, 1]: a random walk, so that the arm goes somewhere and meets things."""
    noise = np.random.RandomState(seed).randn(count, 7)
    drift = np.cumsum(noise, axis=0) * 0.15
    actions = np.clip(drift + 0.3 * noise, -1, 1)
    actions[:, 2] = np.clip(actions[:, 2] - 0.4, -1, 1)  # down, towards the table
    actions[:, 6] = np.where(np.arange(count) // 20 % 2, 1.0, -1.0)
    return actions.astype(np.float32)


def by_lane(
    env, task: str, start_state: int, actions: np.ndarray, cameras: list[str], every: int, seed: int = 0
) -> dict:
    """Reset and take every action, rendering at each ``every``-th; the keys are those of ``reference.py``."""
    env.reset(task, start_state, seed=seed)
    rows: dict[str, list] = {name: [] for name in ["qpos", "qvel", "proprio", "success", "rendered", *cameras]}
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


def by_reference(task: str, start_state: int, actions: np.ndarray, cameras: list[str], size: int = 256) -> dict:
    """The same with the unmodified OffScreenRenderEnv, in a fresh process, rendering at every step."""
    entry = suites.by_id()[task]
    job = {
        "bddl": str(entry.bddl),
        "state": entry.start_states()[start_state].tolist(),
        "actions": actions.astype(np.float64).tolist(),
        "cameras": [CAMERAS[name] for name in cameras],
        "size": size,
        "wait_steps": WAIT_STEPS,
    }
    script = Path(__file__).resolve().parent / "reference.py"
    with tempfile.TemporaryDirectory() as folder:
        job_file, out_file = Path(folder) / "job.json", Path(folder) / "out.npz"
        job_file.write_text(json.dumps(job))
        subprocess.run(
            [sys.executable, str(script), str(job_file), str(out_file)],
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=os.environ,
        )
        with np.load(out_file) as out:
            return {name: out[name] for name in out.files}


def differences(ours: dict, reference: dict, cameras: list[str]) -> list[str]:
    """What is not equal to the last bit, in words; empty when all is."""
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
