"""One LIBERO task, loaded once and started many times.

``Scene.start`` gives, bit for bit, what a freshly made and reset ``OffScreenRenderEnv`` gives after
``set_init_state``, at the cost of a soft reset (milliseconds instead of seconds). Observations are LIBERO's own, too:
robosuite samples its observables once in 50 ms of simulated time, and by the arithmetic of its clock that is one
substep (2 ms) before the end of a step. ``Scene`` copies the simulation at that very substep and draws frames and reads
the arm from the copy, so frames equal the reference's ``obs["agentview_image"]``, and nobody who does not look pays.
"""

from __future__ import annotations

import ctypes
import glob
import os
from collections.abc import Callable

import mujoco
import numpy as np
from robosuite.utils import transform_utils
from robosuite.utils.errors import RandomizationError
from robosuite.utils.observables import Observable, sensor

from libero_sim import fast_step, render

WAIT_ACTION = np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0])
PLACEMENT_TRIES = 100

_libmujoco = ctypes.CDLL(glob.glob(os.path.join(os.path.dirname(mujoco.__file__), "libmujoco.so.*"))[0])
_copy_data = _libmujoco.mj_copyData  # not in the Python module of 2.3.7
_copy_data.argtypes = [ctypes.c_void_p] * 3
_copy_data.restype = ctypes.c_void_p


class Scene:
    """A loaded task. ``domain`` is LIBERO's environment, ``seen`` the mjData of the last observation.

    ``load`` makes the domain, one whose ``reset`` is quick (``soft_reset.restarting``).
    """

    def __init__(
        self,
        load: Callable[[], object],
        fast: bool = True,
        multisample: int = render.DEFAULT_MULTISAMPLE,
        mesh_cell_mm: float = 0.0,
        tick: Callable[[], None] = lambda: None,  # called every few seconds while this takes long
    ):
        self.domain = load()
        tick()
        self.model = self.domain.sim.model._model
        self.data = self.domain.sim.data._data
        self.seen = mujoco.MjData(self.model)
        self.seen_site_rgba = self.model.site_rgba.copy()
        self._observe_by_copy()
        self.fast = fast and fast_step.attach(self.domain, tick)
        self._look = {"multisample": multisample, "cell": mesh_cell_mm / 1000}
        self._drawing: render.Drawing | None = None

    def _observe_by_copy(self) -> None:
        """Switch the domain's observables off but for one of ours, which samples when they would have."""
        for observable in self.domain._observables.values():
            observable.set_enabled(False)
            observable.set_active(False)

        @sensor(modality="srpo")
        def copied(_cache):
            _copy_data(self.seen._address, self.model._address, self.data._address)
            self.seen_site_rgba[:] = self.model.site_rgba
            return np.zeros(1)

        self.domain.add_observable(Observable("srpo_seen", copied, sampling_rate=self.domain.control_freq))

    def start(self, state: np.ndarray, fixture_seed: int, wait_steps: int) -> None:
        """Begin an episode. ``state``: float64 [1 + nq + nv], a row of the task's start states.

        Start states do not hold the poses of fixtures (cabinet, stove): those are drawn anew, from ``fixture_seed``.
        """
        expected = 1 + self.model.nq + self.model.nv
        if state.shape != (expected,):
            raise ValueError(f"a start state of this task has {expected} values, not {state.shape}")
        domain = self.domain
        domain.seed(fixture_seed)
        self._reset()
        domain.sim.set_state_from_flattened(self.placed(state))
        domain.sim.forward()
        domain._check_success()
        domain._post_process()
        domain._update_observables(force=True)
        for _ in range(wait_steps):
            self.step(WAIT_ACTION)

    def placed(self, state: np.ndarray) -> np.ndarray:
        """The state to begin with, asked for after the reset; a subclass may change it."""
        return state

    def _reset(self) -> None:
        """``domain.reset``, with an end to its tries; LIBERO's wrapper retries for ever, whatever went wrong."""
        for _ in range(PLACEMENT_TRIES):
            try:
                self.domain.reset()
                return
            except RandomizationError:  # two objects could not be placed apart
                continue
        raise RuntimeError(f"no collision-free placement of the fixtures in {PLACEMENT_TRIES} tries")

    def step(self, action: np.ndarray) -> bool:
        """One action, float [7], 50 ms of simulated time; True if the task's goal holds afterwards."""
        _, _, success, _ = self.domain.step(np.asarray(action, np.float64))
        return bool(success)

    def frame(self, camera: str, height: int, width: int) -> np.ndarray:
        """uint8 [height, width, 3] of the last observation; ``camera`` is MuJoCo's name of it."""
        if self._drawing is None:
            self._drawing = render.Drawing(self.model, **self._look)
        now = self.model.site_rgba.copy()  # a stove's flame is shown by a site's colour
        self.model.site_rgba[:] = self.seen_site_rgba
        try:
            return self._drawing.frame(self.seen, self.domain.sim.model.camera_name2id(camera), height, width)
        finally:
            self.model.site_rgba[:] = now

    def proprio(self) -> np.ndarray:
        """float32 [8] of the last observation: gripper position (m), its axis-angle (rad), both fingers (m)."""
        robot = self.domain.robots[0]
        position = self.seen.site_xpos[robot.eef_site_id]
        body = self.domain.sim.model.body_name2id(robot.robot_model.eef_name)
        quaternion = transform_utils.convert_quat(np.array(self.seen.xquat[body]), to="xyzw")
        fingers = self.seen.qpos[robot._ref_gripper_joint_pos_indexes]
        return np.concatenate([position, transform_utils.quat2axisangle(quaternion), fingers]).astype(np.float32)

    def close(self) -> None:
        """Free the simulation and what it holds in GL."""
        if self._drawing is not None:
            self._drawing.close()
            self._drawing = None
        self.domain.step = None  # breaks the cycle domain -> FastStep -> domain
        self.domain.close()
        self.model = self.data = self.seen = self.domain = None
