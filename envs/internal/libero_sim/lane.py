"""One lane of LIBERO scenes, the base class of the plugins libero and libero-plus.

A subclass of ``SceneLane`` lists the tasks and loads the scenes. Episodes, cameras, actions and the expert are shared.
"""

from __future__ import annotations

import ctypes
import gc
import importlib.metadata
import importlib.util
import os
from collections import OrderedDict
from typing import Any

import numpy as np
import srpo_sdk as srpo

from libero_sim import egl_device, locations

# srpo's camera name -> MuJoCo's.
CAMERAS = {"agentview": "agentview", "wrist": "robot0_eye_in_hand"}
GL_PACKAGES = {"egl": "libegl1 libgl1-mesa-dri", "osmesa": "libosmesa6"}
PROPRIO = ["eef_x [m]", "eef_y [m]", "eef_z [m]", "eef_rx [rad]", "eef_ry [rad]", "eef_rz [rad]", "finger_1 [m]",
           "finger_2 [m]"]  # fmt: skip
ACTION = srpo.ActionSpace(
    names=["dx", "dy", "dz", "drx", "dry", "drz", "gripper"],
    low=[-1.0] * 7,
    high=[1.0] * 7,
    meaning="end-effector delta, OSC_POSE; gripper -1 open, +1 close",
    rate_hz=20.0,
)
SETTINGS = [
    srpo.Setting("gl", "egl", "OpenGL library for rendering; osmesa needs no EGL and gives the same pixels",
                 choices=("egl", "osmesa")),
    srpo.Setting("fast", True, "use compiled steps, bit-identical to robosuite's; false: use robosuite's steps"),
    srpo.Setting("multisample", 4, "samples per pixel; 4 as in LIBERO. CHANGES PIXELS: 0 is twice as fast, and "
                 "12 % of the pixels differ", choices=(), min=0, max=16),
    srpo.Setting("mesh_cell_mm", 0.0, "cell size in mm for simplified rendering: a mesh's vertices within a cell are "
                 "merged; 0 as in LIBERO. CHANGES PIXELS: 4 is twice as fast without a GPU", min=0, max=20),
    srpo.Setting("max_steps", 0, "maximum steps of an episode; 0: 220 spatial, 280 object, 300 goal, 520 "
                 "libero_10, 400 libero_90", min=0),
    srpo.Setting("wait_steps", 10, "steps of [0,0,0,0,0,0,-1] at the start, while objects settle", min=0),
    srpo.Setting("fixture_seed", 0, "seed of the positions of cabinets and stoves, which start states do not contain; "
                 "0 as in published evaluations, -1: the episode's seed", min=-1, max=2**32 - 1),
    srpo.Setting("keep_scenes", 2, "number of scenes kept loaded, 0.5 to 0.7 GB each; loading takes 4 s", min=1),
]  # fmt: skip
FAILURES = ("miss", "drop", "wrong", "stall")  # modes of failing_expert.FailingExpert
MUJOCO = "2.3.7"
SCENE_SETTINGS = ("fast", "multisample", "mesh_cell_mm")


class SceneLane(srpo.Env):
    """One robot in one scene at a time. Up to ``keep_scenes`` scenes stay loaded, so returning to one is fast.

    A subclass defines ``info`` with ``SETTINGS`` among its settings, ``tasks``, ``find`` and ``load``.
    """

    max_lanes = 1
    package = "libero"  # the Python package that must be installed

    @classmethod
    def describe(cls, settings: dict[str, Any]) -> srpo.EnvSpec:
        """Return the spec. Cameras are 256 x 256 by default, rotated by 180 degrees (``[::-1, ::-1]``)."""
        return srpo.EnvSpec(
            cameras=[
                srpo.Camera("agentview", height=256, width=256, view="third_person", any_size=True),
                srpo.Camera("wrist", height=256, width=256, view="wrist", any_size=True),
            ],
            action=ACTION,
            proprio=PROPRIO,
            record_camera="agentview",
            expert=True,
            expert_failures=FAILURES,
        )

    def find(self, task: str):
        """Return the entry of a task id: ``id``, ``suite`` and ``start_states()`` (float64 [n, 1 + nq + nv]).

        Raises:
            srpo.Error: "not found" for an unknown id.
        """
        raise NotImplementedError

    def scene_name(self, entry) -> str:
        """Return the name of the entry's scene. Entries with the same name share a scene."""
        return entry.id

    def load(self, entry, **options):
        """Return a ``scene.Scene`` for the entry. ``options`` are ``SCENE_SETTINGS`` and ``report_progress``."""
        raise NotImplementedError

    def start(self, scene, entry, state: np.ndarray, seed: int) -> None:
        """Start an episode in a loaded scene and execute the waiting steps."""
        fixtures = self.settings["fixture_seed"]
        scene.start(state, seed % 2**32 if fixtures < 0 else fixtures, self.settings["wait_steps"])

    def __init__(self, config: srpo.EnvConfig):
        super().__init__(config)
        self.settings = self.info.resolve(config.settings)
        self._scenes: OrderedDict[str, Any] = OrderedDict()  # by name, least recently used first
        self._scene = None
        self._pick_place = None  # PickPlace, for libero_object only
        self._expert = None
        self._failing = None  # FailingExpert of an episode that must fail
        _prepare_process(self.settings["gl"], self.package)

    def reset(self, task: str, start_state: int, seed: int) -> None:
        """Start an episode and execute the waiting steps.

        Raises:
            srpo.Error: "not found" for an unknown task or start state, "unavailable" if rendering cannot start.
        """
        entry = self.find(task)
        states = entry.start_states()
        if not 0 <= start_state < len(states):
            hint = f"use a start state from 0 to {len(states) - 1}"
            raise srpo.Error("not found", f"no start state {start_state}", place=task, hint=hint)
        self._scene = self._loaded(entry)
        self.start(self._scene, entry, states[start_state], seed)
        self._pick_place = self._expert = self._failing = None
        if entry.suite == "libero_object":
            from libero_sim.expert import Expert
            from libero_sim.pick_place import PickPlace

            self._pick_place = PickPlace(self._scene)
            self._expert = Expert(self._pick_place)

    def _loaded(self, entry):
        """Return the entry's scene. Load it if necessary, after closing the least recently used scenes."""
        name = self.scene_name(entry)
        if name in self._scenes:
            self._scenes.move_to_end(name)
            return self._scenes[name]
        self._scene = self._pick_place = self._expert = self._failing = None
        while len(self._scenes) >= self.settings["keep_scenes"]:
            _, old = self._scenes.popitem(last=False)
            old.close()
            del old
            _release_memory()
        srpo.report_progress()
        options = {name: self.settings[name] for name in SCENE_SETTINGS}
        try:
            scene = self.load(entry, report_progress=srpo.report_progress, **options)
        except (ImportError, OSError, AttributeError) as error:
            if "GL" in str(error) or "OSMesa" in str(error):
                raise _gl_error(self.settings["gl"], error) from error
            raise
        self._scenes[name] = scene
        srpo.report_progress()
        return scene

    def step(self, action: np.ndarray) -> srpo.Step:
        """Execute one action, float32 [7] in [-1, 1]: 50 ms of simulated time.

        1 is 5 cm for dx, dy, dz and 0.5 rad for the axis-angle drx, dry, drz, both in the world frame. A gripper value
        below 0 opens, above 0 closes, and 0 keeps the gripper's position.
        """
        success = self._started().step(action)
        return srpo.Step(
            success=success,
            terminated=success,
            progress=self._pick_place.progress(success) if self._pick_place else None,
        )

    def proprio(self) -> np.ndarray:
        """Return float32 [8] in ``PROPRIO``'s order: robosuite's eef_pos, eef_quat as axis-angle, gripper_qpos."""
        return self._started().proprio()

    def render(self, camera: str) -> np.ndarray:
        """Return uint8 [height, width, 3]: the image of LIBERO's own environment, rotated by 180 degrees.

        Raises:
            srpo.Error: "not found" for an unknown camera, "unavailable" if rendering fails.
        """
        height, width = self.config.cameras.get(camera, (256, 256))
        if camera not in CAMERAS:
            raise srpo.Error("not found", f"no camera {camera!r}", hint=f"use one of {', '.join(CAMERAS)}")
        scene = self._started()
        try:
            return scene.frame(CAMERAS[camera], height, width)
        except (ImportError, OSError, RuntimeError, AttributeError) as error:
            raise _gl_error(self.settings["gl"], error) from error

    def expert(self) -> np.ndarray | None:
        """Return the scripted policy's next action, float32 [7], or None outside libero_object or after failures."""
        return self._expert.action() if self._expert else None

    def failing_expert(self, failure: str) -> np.ndarray | None:
        """Return the next action of the deliberately failing expert, float32 [7], or None outside libero_object."""
        if self._pick_place is None:
            return None
        if self._failing is None or self._failing.failure != failure:
            from libero_sim.failing_expert import FailingExpert

            self._failing = FailingExpert(self._pick_place, failure)
        return self._failing.action()

    def close(self) -> None:
        """Close all scenes."""
        for scene in self._scenes.values():
            scene.close()
        self._scenes.clear()
        self._scene = self._pick_place = self._expert = self._failing = None
        _release_memory()

    def _started(self):
        if self._scene is None:
            raise srpo.Error("invalid", "no episode has been started", hint="call reset first")
        return self._scene


def _prepare_process(gl: str, package: str) -> None:
    """Set the environment variables that MuJoCo and LIBERO read when they are imported, and check MuJoCo's version.

    Raises:
        srpo.Error: "mismatch" for another MuJoCo, "invalid" for an unusable MUJOCO_EGL_DEVICE_ID, "not found" for a
            missing package.
    """
    _check_mujoco()
    locations.redirect_writes(package)
    if os.environ.get("MUJOCO_GL") != gl:
        os.environ["MUJOCO_GL"] = gl
    os.environ.setdefault("PYOPENGL_PLATFORM", gl)
    if importlib.util.find_spec(package) is None:
        raise srpo.Error("not found", f"the Python package {package} is missing", hint="reinstall the plugin")
    if gl == "egl":
        _choose_egl_device()
    os.environ.pop("CUDA_VISIBLE_DEVICES", None)  # robosuite takes its entries for EGL devices


def _check_mujoco() -> None:
    """Refuse other versions of MuJoCo, which draw other pixels; see envs/libero/README.md."""
    try:
        installed = importlib.metadata.version("mujoco")
    except importlib.metadata.PackageNotFoundError:
        installed = "missing"
    if installed != MUJOCO:
        raise srpo.Error(
            "mismatch",
            f"MuJoCo {MUJOCO} is needed, the environment has {installed}",
            place="Python package mujoco",
            hint=f"install mujoco=={MUJOCO}: MuJoCo 3.3.3 and later draw LIBERO's textures darker, and robosuite 1.4 "
            "does not run on 3.10 and later",
        )


def _choose_egl_device() -> None:
    """Choose the EGL device and report it in the plugin's log. Without EGL, the first frame gives the error."""
    try:
        print(f"rendering on {egl_device.prepare()}")
    except egl_device.Unusable as error:
        raise srpo.Error(
            "invalid",
            str(error),
            place=f"environment variable {egl_device.VARIABLE}",
            hint=f"unset {egl_device.VARIABLE}, and the plugin chooses a device",
        ) from error
    except (OSError, ImportError) as error:
        print(f"no EGL device was chosen: {error}")


def _gl_error(gl: str, error: Exception) -> srpo.Error:
    other = "osmesa" if gl == "egl" else "egl"
    return srpo.Error(
        "unavailable",
        f"cannot render with {gl}: {error}",
        hint=f"apt-get install {GL_PACKAGES[gl]}, or set gl = '{other}' (apt-get install {GL_PACKAGES[other]})",
    )


def _release_memory() -> None:
    """Return freed memory to the system. Otherwise glibc keeps the hundreds of MB of a closed scene."""
    gc.collect()
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    except (OSError, AttributeError):  # not glibc
        pass
