"""A scene for several variants of a task.

Variants of camera, robot, language and noise do not change a scene's files, so they share the scene of their base task.
They change what the benchmark changes when it creates an environment: the pose of a camera, and the arm's joints at a
reset.
"""

from __future__ import annotations

import math

import numpy as np
from robosuite.models.robots.robot_model import REGISTERED_ROBOTS

from libero_sim.scene import Scene

CAMERA = "agentview"


class VariantScene(Scene):
    """Call ``configure`` for a variant, then ``start``."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self._robot = self.domain.robots[0]
        self._own_start = np.array(self._robot.init_qpos)
        self._camera = self.domain.sim.model.camera_name2id(CAMERA)
        self._keep_arm = False

    def configure(self, view: tuple[int, ...], start: int, keep_arm: bool) -> None:
        """Set the variant for the episodes from the next ``start`` on.

        Args:
            view: as ``variants.Variant.view``.
            start: number of the arm's start, 0 for LIBERO's.
            keep_arm: keep the arm's joints of the reset; otherwise the start state overwrites them, as in the
                benchmark's code.
        """
        position, quaternion = self._pose(view)
        self.model.cam_pos[self._camera] = position
        self.model.cam_quat[self._camera] = quaternion
        self._keep_arm = keep_arm and start != 0
        if start == 0:
            self._robot.init_qpos = self._own_start.copy()
        else:
            kind = REGISTERED_ROBOTS[f"{type(self._robot.robot_model).__name__}{start}"]
            self._robot.init_qpos = np.array(kind.init_qpos.fget(None))

    def _pose(self, view: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        """Return position (m) and unit quaternion (w, x, y, z) of the camera, computed by the benchmark's code."""
        domain, seen = self.domain, _CameraRecorder()
        horizontal, vertical, distance, turn, tilt = view
        domain.horizon_view, domain.vertical_view, domain.scale_factor = horizontal, vertical, distance / 100
        domain.end_point_rot, domain.end_point_vertical = turn, tilt
        domain._setup_camera(mujoco_arena=seen)
        position, (w, x, y, z) = seen.poses[CAMERA]
        # Divide, as the model's compiler does. mju_normalize4 multiplies by the inverse, which gives other last bits.
        norm = math.sqrt(w * w + x * x + y * y + z * z)
        return np.array(position, np.float64), np.array([w, x, y, z], np.float64) / norm

    def initial_state(self, state: np.ndarray) -> np.ndarray:
        """Return the start state, with the arm's joints of the reset if ``keep_arm`` was set."""
        if not self._keep_arm:
            return state
        state = state.copy()
        joints = np.asarray(self._robot._ref_joint_pos_indexes)
        state[1 + joints] = self.data.qpos[joints]
        return state


class _CameraRecorder:
    """Replaces the arena in ``domain._setup_camera`` and records the camera poses."""

    def __init__(self):
        self.poses: dict[str, tuple] = {}

    def set_camera(self, camera_name, pos, quat, camera_attribs=None):
        self.poses[camera_name] = (pos, quat)
