"""One lane of LIBERO scenes: what the plugins libero and libero-plus have in common.

A plugin subclasses ``SceneLane`` with what it lists and how it loads a scene; episodes, cameras, actions and the expert
are the same.
"""

from __future__ import annotations

import ctypes
import gc
import importlib.util
import os
from collections import OrderedDict
from typing import Any

import numpy as np
import srpo_sdk as srpo

from libero_sim import locations

# srpo's name of a camera -> MuJoCo's.
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
    srpo.Setting("gl", "egl", "how frames are drawn; osmesa needs no EGL and gives the same pixels",
                 choices=("egl", "osmesa")),
    srpo.Setting("fast", True, "compiled steps, equal to robosuite's bit for bit; false: robosuite's own"),
    srpo.Setting("multisample", 4, "samples a pixel; 4 is LIBERO's. CHANGES PIXELS: 0 is twice as fast, and "
                 "12 % of the pixels differ", choices=(), min=0, max=16),
    srpo.Setting("mesh_cell_mm", 0.0, "detail of what is drawn: a mesh's vertices within a cube of so many mm are one; "
                 "0 is LIBERO's, every triangle. CHANGES PIXELS: 4 is twice as fast without a GPU", min=0, max=20),
    srpo.Setting("max_steps", 0, "most steps of an episode; 0: 220 spatial, 280 object, 300 goal, 520 "
                 "libero_10, 400 libero_90", min=0),
    srpo.Setting("wait_steps", 10, "steps of [0,0,0,0,0,0,-1] at the start, while objects settle", min=0),
    srpo.Setting("fixture_seed", 0, "where cabinets and stoves stand, which no start state says; 0 as in "
                 "published evaluations, -1: from the episode's seed", min=-1, max=2**32 - 1),
    srpo.Setting("keep_scenes", 2, "tasks kept loaded, 0.5 to 0.7 GB each; loading takes 4 s", min=1),
]  # fmt: skip
FAILURES = ("miss", "drop", "wrong", "stall")  # ways in which failing.FailingExpert fails
SCENE_SETTINGS = ("fast", "multisample", "mesh_cell_mm")


class SceneLane(srpo.Env):
    """One robot in one scene at a time. Loaded scenes are kept (``keep_scenes``), so going back to one is quick.

    A subclass has ``info`` with ``SETTINGS`` among its settings, ``tasks``, and ``find``, ``scene_name``, ``load``.
    """

    max_lanes = 1
    package = "libero"  # that must be installed

    @classmethod
    def describe(cls, settings: dict[str, Any]) -> srpo.EnvSpec:
        """Cameras are 256 x 256 unless asked otherwise, turned by half a turn (``[::-1, ::-1]``)."""
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
        """The entry of a task id, with ``suite`` and ``start_states()`` (float64 [n, 1 + nq + nv]), or srpo.Error."""
        raise NotImplementedError

    def scene_name(self, entry) -> str:
        """What scenes are told apart by: entries with the same name share one."""
        return entry.id

    def load(self, entry, **options):
        """A ``scene.Scene`` for the entry; ``options`` are ``SCENE_SETTINGS`` and ``tick``."""
        raise NotImplementedError

    def start(self, scene, entry, state: np.ndarray, seed: int) -> None:
        """Begin an episode in a loaded scene, and wait."""
        fixtures = self.settings["fixture_seed"]
        scene.start(state, seed % 2**32 if fixtures < 0 else fixtures, self.settings["wait_steps"])

    def __init__(self, config: srpo.EnvConfig):
        super().__init__(config)
        self.settings = self.info.resolve(config.settings)
        self._scenes: OrderedDict[str, Any] = OrderedDict()  # by name, the one used last at the end
        self._scene = None
        self._view = None  # PickPlace, for the tasks that it fits
        self._expert = None
        self._failing = None  # the expert of an episode that is to fail
        _prepare_process(self.settings["gl"], self.package)

    def reset(self, task: str, start_state: int, seed: int) -> None:
        """Begin an episode; ends after the waiting steps."""
        entry = self.find(task)
        states = entry.start_states()
        if not 0 <= start_state < len(states):
            raise srpo.Error("not found", f"no start state {start_state}", place=task, hint=f"0 to {len(states) - 1}")
        self._scene = self._loaded(entry)
        self.start(self._scene, entry, states[start_state], seed)
        self._view = self._expert = self._failing = None
        if entry.suite == "libero_object":
            from libero_sim.expert import Expert
            from libero_sim.pick_place import PickPlace

            self._view = PickPlace(self._scene)
            self._expert = Expert(self._view)

    def _loaded(self, entry):
        """The entry's scene, from those kept or from disk; the one unused for longest makes room."""
        name = self.scene_name(entry)
        if name in self._scenes:
            self._scenes.move_to_end(name)
            return self._scenes[name]
        self._scene = self._view = self._expert = self._failing = None
        while len(self._scenes) >= self.settings["keep_scenes"]:
            _, old = self._scenes.popitem(last=False)
            old.close()
            del old
            _give_memory_back()
        srpo.heartbeat()
        options = {name: self.settings[name] for name in SCENE_SETTINGS}
        try:
            scene = self.load(entry, tick=srpo.heartbeat, **options)
        except (ImportError, OSError, AttributeError) as error:
            if "GL" in str(error) or "OSMesa" in str(error):
                raise _gl_error(self.settings["gl"], error) from error
            raise
        self._scenes[name] = scene
        srpo.heartbeat()
        return scene

    def step(self, action: np.ndarray) -> srpo.Step:
        """One action: float32 [7] in [-1, 1]; 50 ms of simulated time.

        1 is 5 cm for dx, dy, dz and 0.5 rad for the axis-angle drx, dry, drz, both in the world's axes; gripper below
        0 opens, above 0 closes, at 0 holds.
        """
        success = self._started().step(action)
        return srpo.Step(
            success=success,
            terminated=success,
            progress=self._view.progress(success) if self._view else None,
        )

    def proprio(self) -> np.ndarray:
        """float32 [8] in ``PROPRIO``'s order: robosuite's eef_pos, eef_quat as axis-angle, gripper_qpos."""
        return self._started().proprio()

    def render(self, camera: str) -> np.ndarray:
        """uint8 [height, width, 3], equal to what LIBERO's own environment returns, turned by half a turn."""
        height, width = self.config.cameras.get(camera, (256, 256))
        if camera not in CAMERAS:
            raise srpo.Error("not found", f"no camera {camera!r}", hint=f"one of {', '.join(CAMERAS)}")
        scene = self._started()
        try:
            return scene.frame(CAMERAS[camera], height, width)
        except (ImportError, OSError, RuntimeError, AttributeError) as error:
            raise _gl_error(self.settings["gl"], error) from error

    def expert(self) -> np.ndarray | None:
        """The next action of the scripted policy, float32 [7]; None outside libero_object, or when it gives up."""
        return self._expert.action() if self._expert else None

    def failing_expert(self, failure: str) -> np.ndarray | None:
        """The next action of an expert that fails on purpose, float32 [7]; None outside libero_object."""
        if self._view is None:
            return None
        if self._failing is None or self._failing.failure != failure:
            from libero_sim.failing_expert import FailingExpert

            self._failing = FailingExpert(self._view, failure)
        return self._failing.action()

    def close(self) -> None:
        for scene in self._scenes.values():
            scene.close()
        self._scenes.clear()
        self._scene = self._view = self._expert = self._failing = None
        _give_memory_back()

    def _started(self):
        if self._scene is None:
            raise srpo.Error("invalid", "no episode has been started", hint="call reset first")
        return self._scene


def _prepare_process(gl: str, package: str) -> None:
    """What must be set before MuJoCo and LIBERO are imported."""
    locations.redirect_writes(package)
    if os.environ.get("MUJOCO_GL") != gl:
        os.environ["MUJOCO_GL"] = gl
    os.environ.setdefault("PYOPENGL_PLATFORM", gl)
    if importlib.util.find_spec(package) is None:
        raise srpo.Error("not found", f"the package {package} is missing", hint="reinstall the plugin")


def _gl_error(gl: str, error: Exception) -> srpo.Error:
    other = "osmesa" if gl == "egl" else "egl"
    return srpo.Error(
        "unavailable",
        f"frames cannot be drawn with {gl}: {error}",
        hint=f"apt-get install {GL_PACKAGES[gl]}, or set gl = '{other}' (apt-get install {GL_PACKAGES[other]})",
    )


def _give_memory_back() -> None:
    """Return freed memory to the system; glibc keeps a scene's hundreds of MB otherwise."""
    gc.collect()
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    except (OSError, AttributeError):  # not glibc
        pass
