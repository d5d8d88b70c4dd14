"""A scene that one variant after another is played in.

Camera, robot, language and noise change nothing in a scene's files, so a base task is loaded once for all of its
variants. What they change is what the benchmark changes when it makes an environment: the pose of a camera, and the
joints in which the arm is put at a reset.
"""

from __future__ import annotations

import math

import numpy as np
from robosuite.models.robots.robot_model import REGISTERED_ROBOTS

from libero_sim.scene import Scene

CAMERA = "agentview"


class VariantScene(Scene):
    """``dress`` it as a variant, then ``start`` it."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self._robot = self.domain.robots[0]
        self._own_start = np.array(self._robot.init_qpos)
        self._camera = self.domain.sim.model.camera_name2id(CAMERA)
        self._keep_arm = False

    def dress(self, view: tuple[int, ...], start: int, keep_arm: bool) -> None:
        """For the episodes from the next ``start`` on.

        view: as ``variants.Variant.view``. start: number of the arm's start, 0 for LIBERO's own. keep_arm: the arm
        stays where the reset put it; otherwise the start state puts it elsewhere again, as the benchmark's code does.
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
        """Position (m) and unit quaternion (w, x, y, z) of the camera, by the benchmark's own arithmetic."""
        domain, seen = self.domain, _Cameras()
        horizontal, vertical, distance, turn, tilt = view
        domain.horizon_view, domain.vertical_view, domain.scale_factor = horizontal, vertical, distance / 100
        domain.end_point_rot, domain.end_point_vertical = turn, tilt
        domain._setup_camera(mujoco_arena=seen)
        position, (w, x, y, z) = seen.poses[CAMERA]
        # As the model's compiler does it, which divides; mju_normalize4 multiplies by the inverse: other last bits.
        norm = math.sqrt(w * w + x * x + y * y + z * z)
        return np.array(position, np.float64), np.array([w, x, y, z], np.float64) / norm

    def placed(self, state: np.ndarray) -> np.ndarray:
        """The start state, with the arm where the reset has put it if it is to stay there."""
        if not self._keep_arm:
            return state
        state = state.copy()
        joints = np.asarray(self._robot._ref_joint_pos_indexes)
        state[1 + joints] = self.data.qpos[joints]
        return state


class _Cameras:
    """Stands for an arena where a domain sets up its cameras."""

    def __init__(self):
        self.poses: dict[str, tuple] = {}

    def set_camera(self, camera_name, pos, quat, camera_attribs=None):
        self.poses[camera_name] = (pos, quat)
