"""LIBERO-Plus's environment for a scene, without a renderer and with a fast reset."""

from __future__ import annotations

import contextlib
import importlib
import sys
from pathlib import Path

import package_tree
from libero_sim.soft_reset import duplicate_samplers, with_soft_reset

_ENVS = "liberoplus.liberoplus.envs"
# The modules with problem classes: libero_NAME_manipulation.
_MODULES = ("coffee_table", "floor", "kitchen_tabletop", "living_room_tabletop", "study_tabletop", "tabletop")


def load_domain(bddl: Path, assets: Path):
    """Return the benchmark's environment for a BDDL file, with LIBERO's default camera and robot start."""
    package_tree.enter(package_tree.make(assets))
    with contextlib.redirect_stdout(sys.stderr):
        import robosuite

        bddl_utils = importlib.import_module(_ENVS + ".bddl_utils")
        # For a file that it cannot parse, get_problem_info silently returns another task's problem. This call raises.
        bddl_utils._core_robosuite_parse_problem(str(bddl))
        problem = bddl_utils.get_problem_info(str(bddl))["problem_name"]
        for module in _MODULES:
            if problem.startswith(f"libero_{module}_manipulation"):
                importlib.import_module(f"{_ENVS}.problems.libero_{module}_manipulation")
        importlib.import_module(_ENVS + ".robots")
        base = importlib.import_module(_ENVS + ".bddl_base_domain").TASK_MAPPING[problem]
        domain = with_soft_reset(base)(
            bddl_file_name=str(bddl),
            horizon_view=0,
            vertical_view=0,
            scale_factor=1.0,
            end_point_rot=0,
            end_point_vertical=0,
            init_state=0,
            robots=["Panda"],
            controller_configs=robosuite.load_controller_config(default_controller="OSC_POSE"),
            gripper_types="default",
            initialization_noise=None,
            use_camera_obs=False,
            has_renderer=False,
            has_offscreen_renderer=False,
            render_camera="frontview",
            render_collision_mesh=False,
            render_visual_mesh=True,
            render_gpu_device_id=-1,
            control_freq=20,
            horizon=1000,
            ignore_done=True,  # the host counts steps
            hard_reset=False,
            camera_names=["agentview", "robot0_eye_in_hand"],
            camera_depths=False,
            camera_segmentations=None,
            renderer="mujoco",
            renderer_config=None,
        )
    duplicate_samplers(domain)
    return domain
