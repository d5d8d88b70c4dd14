"""LIBERO's environment for a task, without a renderer and with a fast reset."""

from __future__ import annotations

from pathlib import Path

from libero.libero.envs import TASK_MAPPING
from libero.libero.envs.bddl_utils import get_problem_info
from libero.libero.envs.env_wrapper import ControlEnv

from libero_sim.soft_reset import duplicate_samplers, with_soft_reset


def load_domain(bddl: Path):
    """Return LIBERO's environment for a BDDL file. It has no renderer, and its soft reset equals a hard reset."""
    problem = get_problem_info(str(bddl))["problem_name"]
    base = TASK_MAPPING[problem]
    TASK_MAPPING[problem] = with_soft_reset(base)  # LIBERO looks the class up here
    try:
        control = ControlEnv(
            bddl_file_name=str(bddl),
            use_camera_obs=False,
            has_offscreen_renderer=False,
            hard_reset=False,
            ignore_done=True,  # the host counts steps
        )
    finally:
        TASK_MAPPING[problem] = base
    duplicate_samplers(control.env)
    return control.env
