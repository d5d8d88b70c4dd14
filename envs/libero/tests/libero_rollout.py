"""Rollouts of LIBERO tasks by this plugin's lane and by the unmodified environment; for tests and bench.py."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import srpo_sdk as srpo

import suites
from libero_env import Libero
from libero_sim.lane import CAMERAS
from libero_sim.testing import rollout

WAIT_STEPS = 10


def lane(size: int = 256, **settings) -> Libero:
    """Return a lane with both cameras at ``size`` x ``size`` pixels."""
    cameras = dict.fromkeys(CAMERAS, (size, size))
    return Libero(srpo.EnvConfig(settings=Libero.info.resolve(settings), cameras=cameras))


def by_reference(task: str, start_state: int, actions: np.ndarray, cameras: list[str], size: int = 256) -> dict:
    """Execute float [T, 7] actions in the unmodified OffScreenRenderEnv, in a fresh process; see reference.py."""
    entry = suites.by_id()[task]
    job = {
        "bddl": str(entry.bddl),
        "state": entry.start_states()[start_state].tolist(),
        "actions": actions.astype(np.float64).tolist(),
        "cameras": [CAMERAS[name] for name in cameras],
        "size": size,
        "wait_steps": WAIT_STEPS,
    }
    return rollout.in_process(Path(__file__).resolve().parent / "reference.py", job)
