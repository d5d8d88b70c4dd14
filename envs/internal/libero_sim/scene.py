"""One LIBERO task that is loaded once and started many times.

``Scene.start`` gives the same state, bit for bit, as a new ``OffScreenRenderEnv`` after ``reset`` and
``set_init_state``, but takes milliseconds instead of seconds. Observations equal LIBERO's, too. robosuite samples its
observables once per 50 ms of simulated time, which by the arithmetic of its clock is one substep (2 ms) before the end
of a step. ``Scene`` copies the simulation at that substep. It renders frames and reads the arm from the copy, so frames
equal the reference's ``obs["agentview_image"]``, and a step without rendering is fast.
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
    """A loaded task. ``domain`` is LIBERO's environment, ``observed`` the mjData of the last observation.

    Args:
        load: returns the domain, whose class has a soft reset (``soft_reset.with_soft_reset``).
        fast: whether to use compiled steps.
        multisample: samples per pixel.
        mesh_cell_mm: cell size of simplified meshes in mm; 0 renders every triangle.
        report_progress: called every few seconds while loading takes long.
    """

    def __init__(
        self,
        load: Callable[[], object],
        fast: bool = True,
        multisample: int = render.DEFAULT_MULTISAMPLE,
        mesh_cell_mm: float = 0.0,
        report_progress: Callable[[], None] = lambda: None,
    ):
        self.domain = load()
        report_progress()
        self.model = self.domain.sim.model._model
        self.data = self.domain.sim.data._data
        self.observed = mujoco.MjData(self.model)
        self.observed_site_rgba = self.model.site_rgba.copy()
        self._observe_by_copy()
        self.fast = fast and fast_step.attach(self.domain, report_progress)
        self._render_options = {"multisample": multisample, "cell": mesh_cell_mm / 1000}
        self._renderer: render.Renderer | None = None

    def _observe_by_copy(self) -> None:
        """Disable the domain's observables and add one that copies the simulation when they would sample."""
        for observable in self.domain._observables.values():
            observable.set_enabled(False)
            observable.set_active(False)

        @sensor(modality="srpo")
        def copied(_cache):
            _copy_data(self.observed._address, self.model._address, self.data._address)
            self.observed_site_rgba[:] = self.model.site_rgba
            return np.zeros(1)

        self.domain.add_observable(Observable("srpo_seen", copied, sampling_rate=self.domain.control_freq))

    def start(self, state: np.ndarray, fixture_seed: int, wait_steps: int) -> None:
        """Start an episode and execute ``wait_steps`` steps of ``WAIT_ACTION``.

        Args:
            state: float64 [1 + nq + nv], one of the task's start states.
            fixture_seed: seed of the poses of fixtures (cabinet, stove), which start states do not contain.
        """
        expected = 1 + self.model.nq + self.model.nv
        if state.shape != (expected,):
            raise ValueError(f"a start state of this task has {expected} values, not {state.shape}")
        domain = self.domain
        domain.seed(fixture_seed)
        self._reset()
        domain.sim.set_state_from_flattened(self.initial_state(state))
        domain.sim.forward()
        domain._check_success()
        domain._post_process()
        domain._update_observables(force=True)
        for _ in range(wait_steps):
            self.step(WAIT_ACTION)

    def initial_state(self, state: np.ndarray) -> np.ndarray:
        """Return the initial state, float64 [1 + nq + nv]. It is called after the reset; a subclass may override it."""
        return state

    def _reset(self) -> None:
        """Reset the domain with a limited number of tries. LIBERO's wrapper retries for ever after any error."""
        for _ in range(PLACEMENT_TRIES):
            try:
                self.domain.reset()
                return
            except RandomizationError:  # no placement without collisions was found
                continue
        raise RuntimeError(f"no collision-free placement of the fixtures in {PLACEMENT_TRIES} tries")

    def step(self, action: np.ndarray) -> bool:
        """Execute one action, float [7]: 50 ms of simulated time. Return whether the task's goal is reached."""
        _, _, success, _ = self.domain.step(np.asarray(action, np.float64))
        return bool(success)

    def frame(self, camera: str, height: int, width: int) -> np.ndarray:
        """Return uint8 [height, width, 3] of the last observation; ``camera`` is MuJoCo's camera name."""
        if self._renderer is None:
            self._renderer = render.Renderer(self.model, **self._render_options)
        now = self.model.site_rgba.copy()  # the colour of a site shows a stove's flame
        self.model.site_rgba[:] = self.observed_site_rgba
        try:
            return self._renderer.frame(self.observed, self.domain.sim.model.camera_name2id(camera), height, width)
        finally:
            self.model.site_rgba[:] = now

    def proprio(self) -> np.ndarray:
        """Return float32 [8] of the last observation: gripper position (m), axis-angle (rad), finger positions (m)."""
        robot = self.domain.robots[0]
        position = self.observed.site_xpos[robot.eef_site_id]
        body = self.domain.sim.model.body_name2id(robot.robot_model.eef_name)
        quaternion = transform_utils.convert_quat(np.array(self.observed.xquat[body]), to="xyzw")
        fingers = self.observed.qpos[robot._ref_gripper_joint_pos_indexes]
        return np.concatenate([position, transform_utils.quat2axisangle(quaternion), fingers]).astype(np.float32)

    def close(self) -> None:
        """Free the simulation and its resources in GL."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None
        self.domain.step = None  # breaks the cycle domain -> FastStep -> domain
        self.domain.close()
        self.model = self.data = self.observed = self.domain = None
