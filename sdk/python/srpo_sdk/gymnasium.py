"""Environments of gymnasium as env plugins. It needs gymnasium 1.x in the plugin's requirements.

import srpo_sdk as srpo
from srpo_sdk.gymnasium import GymEnv

class FetchReach(GymEnv):
    info = srpo.Info("fetch-reach", "0.1.0", doc="FetchReach of gymnasium-robotics")
    env_id = "gymnasium_robotics:FetchReach-v4"
    instruction = "move the gripper to the red target"

srpo.serve(FetchReach)
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import gymnasium
import numpy as np
import numpy.typing as npt

from .env import Env, EnvConfig, Step, Task
from .errors import Error
from .spec import ActionSpace, Camera, EnvSpec

#: The camera that `gymnasium.Env.render` draws.
RENDER = "render"

_SUCCESS_KEYS = ("is_success", "success")


class GymEnv(Env):
    """A gymnasium environment with pixels as a lane. Subclass it, set the attributes, and pass the subclass to `serve`.

    - Cameras: "render" is what `render()` returns in mode "rgb_array". Each image in the observation, uint8 [H, W, 3],
      is another camera with the name of its key.
    - Proprio: the vectors in the observation. A Box observation gives "observation[0]", ...; a Dict observation gives
      "KEY[0]", ... for each of its vectors.
    - Actions: a Box with finite bounds, flattened. Other action spaces are refused.
    - Start states: start state k is `reset(seed=k)`. The seed of the episode is not used.
    - Success: `info["is_success"]` or `info["success"]`, which ends the episode. Override `success` for other rules.
    - Ends: `terminated` and `truncated` of the environment are kept apart. Its time limit is replaced by `max_steps`.
    """

    #: The environment's ID. "MODULE:ID" imports the module that registers it.
    env_id: ClassVar[str] = ""
    #: Further arguments of `gymnasium.make`, e.g. {"width": 224, "height": 224}.
    make_kwargs: ClassVar[Mapping[str, Any]] = {}
    #: The sentence that a policy gets.
    instruction: ClassVar[str] = ""
    #: Number of start states.
    start_states: ClassVar[int] = 50
    #: Steps after which an episode is truncated; 0: the limit that the environment is registered with.
    max_steps: ClassVar[int] = 0
    #: Keys of the Dict observation that make up the proprio vector; None: all that are vectors. Leave out what a real
    #: robot could not measure, such as the positions of objects.
    proprio_keys: ClassVar[Sequence[str] | None] = None
    #: One name per action dimension; empty: "action[0]", ...
    action_names: ClassVar[Sequence[str]] = ()
    #: What the actions are, a sentence; empty: the environment's ID and its action space.
    action_meaning: ClassVar[str] = ""
    #: Actions per second; 0: the environment's metadata["render_fps"].
    rate_hz: ClassVar[float] = 0.0

    #: Make a new environment for each episode. Set it if `reset` of the environment keeps state of the last episode:
    #: `srpo plugin test` then reports that the same episode differs.
    remake_on_reset: ClassVar[bool] = False

    # An environment that describe() made, for the first lane.
    _unused: ClassVar[list[gymnasium.Env[Any, Any]]] = []

    @classmethod
    def make(cls, settings: dict[str, Any]) -> gymnasium.Env[Any, Any]:
        """Returns a new environment. Override it to add wrappers, e.g. for another action space.

        Raises:
            Error: "not found" when gymnasium does not know `env_id`.
        """
        try:
            return gymnasium.make(
                cls.env_id, render_mode="rgb_array", max_episode_steps=-1, disable_env_checker=True, **cls.make_kwargs
            )
        except (gymnasium.error.UnregisteredEnv, ImportError) as e:
            raise Error(
                "not found",
                f"gymnasium cannot make {cls.env_id!r}: {e}",
                hint='check the id "MODULE:ID", or add the package of the module to requirements.in and lock it',
            ) from e

    @classmethod
    def tasks(cls, settings: dict[str, Any]) -> Iterable[Task]:
        """Yields one task, with the ID of the environment."""
        if not cls.instruction:
            raise Error("invalid", f"{cls.__name__} has no instruction", hint="set instruction in the class")
        suite = cls.info.name
        task = cls.env_id.rpartition(":")[2].replace("/", "-")
        yield Task(f"{suite}/{task}", suite, cls.instruction, cls.start_states, cls._step_limit())

    @classmethod
    def describe(cls, settings: dict[str, Any]) -> EnvSpec:
        """Makes an environment and describes it.

        Raises:
            Error: "unsupported" for an environment without pixels or without bounded continuous actions.
        """
        env = cls._open(settings)
        frame: Any = env.render()
        pictures = [(RENDER, frame)] if isinstance(frame, np.ndarray) else []
        pictures += [(key, box.low) for key, box in _boxes(env.observation_space)]
        cameras = [
            Camera(name, picture.shape[0], picture.shape[1])
            for name, picture in pictures
            if picture.dtype == np.uint8 and picture.ndim == 3 and picture.shape[2] == 3
        ]
        if not cameras:
            raise Error(
                "unsupported",
                f"{cls.env_id} has no pixels: render() gave {type(frame).__name__}, and no observation is an image",
                hint="choose an environment with the render mode rgb_array",
            )
        fps = env.metadata.get("render_fps") or 0
        spec = EnvSpec(
            cameras,
            _action_space(cls, env.action_space, cls.rate_hz or float(fps)),
            [name for key, box in cls._vectors(env) for name in _names(key, int(np.prod(box.shape)))],
        )
        cls._unused.append(env)
        return spec

    def __init__(self, config: EnvConfig):
        super().__init__(config)
        #: The gymnasium environment.
        self.env = self._unused.pop() if self._unused else self._open(config.settings)
        #: The newest observation.
        self.observation: Any = None
        self._vector_keys = [key for key, _ in self._vectors(self.env)]
        self._limit, self._steps, self._success_known = self._step_limit(), 0, False

    def reset(self, task: str, start_state: int, seed: int) -> None:
        if self.remake_on_reset and self._steps:
            self.env.close()
            self.env = self._open(self.config.settings)
        self.observation, _ = self.env.reset(seed=start_state)
        self._steps = 0

    def step(self, action: npt.NDArray[np.float32]) -> Step:
        space = self.env.action_space
        self.observation, reward, terminated, truncated, info = self.env.step(
            action.reshape(space.shape or ()).astype(space.dtype)
        )
        self._steps += 1
        success = self.success(float(reward), bool(terminated), info)
        self._success_known |= type(self).success is not GymEnv.success or any(k in info for k in _SUCCESS_KEYS)
        if not self._success_known and (terminated or truncated or self._steps >= self._limit):
            raise Error(
                "unsupported",
                f"{self.env_id} does not report success: info has {', '.join(map(repr, info)) or 'no keys'}",
                hint="override success(reward, terminated, info) in the plugin",
            )
        return Step(success=success, terminated=bool(terminated), truncated=bool(truncated))

    def success(self, reward: float, terminated: bool, info: dict[str, Any]) -> bool:
        """Whether the step solved the task, from what `gymnasium.Env.step` returned."""
        return any(bool(info[key]) for key in _SUCCESS_KEYS if key in info)

    def proprio(self) -> npt.NDArray[np.floating[Any]]:
        parts = [np.asarray(_part(self.observation, key), np.float32).ravel() for key in self._vector_keys]
        return np.concatenate(parts)

    def render(self, camera: str) -> npt.NDArray[np.uint8]:
        frame: Any = self.env.render() if camera == RENDER else _part(self.observation, camera)
        image: npt.NDArray[np.uint8] = frame
        return image

    def close(self) -> None:
        self.env.close()

    @classmethod
    def _open(cls, settings: dict[str, Any]) -> gymnasium.Env[Any, Any]:
        """Returns a new environment after one reset and one picture, so that all lanes have the same history."""
        env = cls.make(settings)
        env.reset(seed=0)
        env.render()
        return env

    @classmethod
    def _step_limit(cls) -> int:
        """Returns `max_steps`, or else the registered limit. Raises `Error` ("invalid") when there is neither."""
        if cls.max_steps:
            return cls.max_steps
        module, _, name = cls.env_id.rpartition(":")
        if module:
            importlib.import_module(module)
        registered = gymnasium.registry.get(name)
        if registered is None or not registered.max_episode_steps:
            raise Error(
                "invalid", f"{cls.env_id!r} is registered without a time limit", hint="set max_steps in the class"
            )
        return int(registered.max_episode_steps)

    @classmethod
    def _vectors(cls, env: gymnasium.Env[Any, Any]) -> list[tuple[str, gymnasium.spaces.Box]]:
        """Returns the keys and spaces of the observation's vectors that make up the proprio vector.

        Raises:
            Error: "invalid" when `proprio_keys` names something else.
        """
        vectors = {key: box for key, box in _boxes(env.observation_space) if len(box.shape) <= 1}
        if cls.proprio_keys is None:
            return list(vectors.items())
        for key in cls.proprio_keys:
            if key not in vectors:
                raise Error(
                    "invalid",
                    f"{key!r} in proprio_keys is not a vector of the observation",
                    hint=f"one of {', '.join(vectors) or 'none'}",
                )
        return [(key, vectors[key]) for key in cls.proprio_keys]


def _action_space(cls: type[GymEnv], space: gymnasium.Space[Any], rate_hz: float) -> ActionSpace:
    if not isinstance(space, gymnasium.spaces.Box) or not np.issubdtype(space.dtype, np.floating):
        raise Error(
            "unsupported",
            f"the action space of {cls.env_id} is {space}, but the policies of srpo emit continuous actions",
            hint="override make() and wrap the environment in a gymnasium.ActionWrapper with a Box of floats",
        )
    low, high = space.low.ravel(), space.high.ravel()
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        raise Error(
            "unsupported",
            f"the action space of {cls.env_id} has no finite bounds: {space}",
            hint="override make() and wrap the environment in gymnasium.wrappers.RescaleAction",
        )
    names = list(cls.action_names) or _names("action", len(low))
    meaning = cls.action_meaning or f"{cls.env_id} {space}"
    return ActionSpace(names, low.tolist(), high.tolist(), meaning, rate_hz)


def _boxes(space: gymnasium.Space[Any], key: str = "") -> Iterator[tuple[str, gymnasium.spaces.Box]]:
    """Yields the boxes of an observation space with their keys; the key of nested ones is "OUTER/INNER"."""
    if isinstance(space, gymnasium.spaces.Dict):
        for name, part in space.items():
            yield from _boxes(part, f"{key}/{name}" if key else name)
    elif isinstance(space, gymnasium.spaces.Box):
        yield key or "observation", space


def _part(observation: Any, key: str) -> Any:
    """Returns the part of an observation with a key of `_boxes`."""
    while isinstance(observation, Mapping):
        if key in observation:
            return observation[key]
        outer, _, key = key.partition("/")
        observation = observation[outer]
    return observation


def _names(key: str, count: int) -> list[str]:
    return [f"{key}[{i}]" for i in range(count)]
