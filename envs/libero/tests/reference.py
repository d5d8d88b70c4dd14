"""Rolls out LIBERO's unmodified environment in this process, for comparison with the plugin's lane.

    python reference.py JOB.json OUT.npz

JOB: {"bddl": path, "state": a row of start states, "actions": [[7 numbers], ...], "cameras": MuJoCo's names,
"size": pixels, "wait_steps": number}. OUT: the arrays of ``libero_sim.testing.rollout.roll_out``.
"""

from __future__ import annotations

import json
import sys

import paths  # noqa: F401  first: it sets the import path and redirects the libraries' writes

# isort: split
import numpy as np

from libero_sim.testing.rollout import roll_out


def run(job: dict) -> dict[str, np.ndarray]:
    """Make, seed and reset the environment, set the start state, wait, and execute every action."""
    from libero.libero.envs import OffScreenRenderEnv

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
    return roll_out(env, job["actions"], job["cameras"])


if __name__ == "__main__":
    with open(sys.argv[1]) as file:
        job = json.load(file)
    np.savez(sys.argv[2], **run(job))
