"""Environments: what an author writes."""

from dataclasses import dataclass, field
from typing import Any, Dict, Iterable, Mapping, Optional, Tuple

import numpy as np

from .info import Info
from .spec import EnvSpec


@dataclass(frozen=True)
class Task:
    """Something to do in an env.

    Args:
        id: unique within the env, the same for ever: "libero_object/pick_up_the_bbq_sauce_and_place_it_in_the_basket".
        suite: the group that it belongs to.
        instruction: what a policy is told.
        start_states: number of start states; `Env.reset` gets one of 0 .. start_states-1.
        max_steps: steps after which an episode is truncated.
        tags: e.g. {"dimension": "camera", "level": "L3"}.
        unavailable: why the task cannot run here; "": it can.
    """

    id: str
    suite: str
    instruction: str
    start_states: int
    max_steps: int
    tags: Mapping[str, str] = field(default_factory=dict)
    unavailable: str = ""


@dataclass
class Step:
    """What one action led to.

    Args:
        success: the task is done; it ends the episode.
        terminated: the episode ended by the env's own rule. Reaching max_steps is not the env's business.
        progress: the env's own measure of how far the task has come, 0 to 1, for audits only; None: it has none.
    """

    success: bool = False
    terminated: bool = False
    progress: Optional[float] = None


@dataclass(frozen=True)
class EnvConfig:
    """What the host tells one lane.

    Args:
        settings: every declared setting by name.
        cameras: {name: (height, width)} of the cameras that will be read, pixels.
        seed: for anything that reset's seed does not cover.
        lane: 0 .. lanes-1.
        lanes: lanes of this process.
        scratch: a folder that may be written to; the host removes it afterwards; "": none.
    """

    settings: Dict[str, Any]
    cameras: Dict[str, Tuple[int, int]]
    seed: int = 0
    lane: int = 0
    lanes: int = 1
    scratch: str = ""


class Env:
    """One lane of an environment. Subclass it and call `srpo_sdk.serve` with the subclass.

    The package does the rest: lanes, chunks of actions, rendering on demand, recording for the encoder, truncation,
    refusing bad actions, shared memory,
    cancellation. A lane is made at its first reset, and all of its methods run on one thread; without `threads` all
    lanes share the main thread.
    """

    info: Info
    #: Lanes that one process can hold.
    max_lanes: int = 1
    #: Whether lanes may be stepped at the same time, each on a thread of its own.
    threads: bool = False

    @classmethod
    def describe(cls, settings: Dict[str, Any]) -> EnvSpec:
        """Returns cameras, action space and proprio names; starts no simulator."""
        raise NotImplementedError(f"{cls.__name__} has no describe()")

    @classmethod
    def tasks(cls, settings: Dict[str, Any]) -> Iterable[Task]:
        """Yields every task in a fixed order; starts no simulator."""
        raise NotImplementedError(f"{cls.__name__} has no tasks()")

    def __init__(self, config: EnvConfig):
        self.config = config

    def reset(self, task: str, start_state: int, seed: int) -> None:
        """Begins an episode. Everything random in it follows from seed; steps that only let a scene settle are made
        here.
        """
        raise NotImplementedError(f"{type(self).__name__} has no reset()")

    def step(self, action: np.ndarray) -> Step:
        """Executes one action, float32 [action dim], inside the action space's bounds."""
        raise NotImplementedError(f"{type(self).__name__} has no step()")

    def proprio(self) -> np.ndarray:
        """Returns float32 [P], the state after reset or the last step. Not called when the spec names no proprio."""
        raise NotImplementedError(f"{type(self).__name__} names proprio entries, but has no proprio()")

    def render(self, camera: str) -> np.ndarray:
        """Returns uint8 [H, W, 3] of the state after reset or the last step, at `config.cameras[camera]`. Only called
        when somebody looks.
        """
        raise NotImplementedError(f"{type(self).__name__} has no render()")

    def expert(self) -> Optional[np.ndarray]:
        """Returns the scripted expert's next action, float32 [action dim], from privileged state. None: it has none
        (here, or any more): the host then sees fewer steps than it asked for, or "unsupported" when there is none.
        """
        raise NotImplementedError(f"{type(self).__name__} has no scripted expert")

    def failing_expert(self, failure: str) -> Optional[np.ndarray]:
        """Returns the expert's next action, float32 [action dim] or None as in `expert`, in an episode that is to fail
        in the given way, one of `EnvSpec.expert_failures`. It shows what a reward makes of failures.
        """
        raise NotImplementedError(f"{type(self).__name__} names expert_failures, but has no failing_expert()")

    def close(self) -> None:
        """Frees what the lane holds; about a second is left for it."""
