"""Environments: the classes that an author subclasses and fills in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from .info import Info
from .spec import EnvSpec


@dataclass(frozen=True)
class Task:
    """Something to do in an env.

    Args:
        id: unique within the env and stable across versions, e.g.
            "libero_object/pick_up_the_bbq_sauce_and_place_it_in_the_basket".
        suite: the group that it belongs to.
        instruction: the sentence that a policy gets.
        start_states: number of start states; `Env.reset` gets one of 0 .. start_states-1.
        max_steps: steps after which an episode is truncated.
        tags: e.g. {"dimension": "camera", "level": "L3"}.
        unavailable: why the task cannot run on this machine, and the remedy; "": it can.
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
    """The result of one action.

    Args:
        success: the task is solved; it ends the episode.
        terminated: the episode ended by a rule of the task. Reaching max_steps is not such a rule: the kit counts.
        progress: how much of the task is done, 0 to 1, for audits only; None: the env does not measure it.
        truncated: the episode ended for a reason outside the task, e.g. the simulation left its valid range.
    """

    success: bool = False
    terminated: bool = False
    progress: float | None = None
    truncated: bool = False


@dataclass(frozen=True)
class EnvConfig:
    """The configuration of one lane.

    Args:
        settings: every declared setting by name.
        cameras: {name: (height, width)} of the cameras that will be rendered, pixels.
        seed: for anything that the seed of `Env.reset` does not cover.
        lane: 0 .. lanes-1.
        lanes: number of lanes in this process.
        scratch: a writable folder that the host removes afterwards; "": none.
    """

    settings: dict[str, Any]
    cameras: dict[str, tuple[int, int]]
    seed: int = 0
    lane: int = 0
    lanes: int = 1
    scratch: str = ""


class Env:
    """One lane of an environment: it runs one episode at a time. Subclass it and pass the subclass to `serve`.

    The kit does the rest: lanes, chunks of actions, rendering on demand, recording for the encoder, truncation,
    refusing bad actions, shared memory, cancellation. It makes a lane at the lane's first reset and calls all of its
    methods on one thread. All lanes share the main thread unless `threads` is True.
    """

    info: Info
    #: Lanes that one process can serve.
    max_lanes: int = 1
    #: Whether lanes may be stepped at the same time, each on a thread of its own.
    threads: bool = False

    @classmethod
    def describe(cls, settings: dict[str, Any]) -> EnvSpec:
        """Returns cameras, action space and proprio names. It must not start a simulator."""
        raise NotImplementedError(f"{cls.__name__} has no describe()")

    @classmethod
    def tasks(cls, settings: dict[str, Any]) -> Iterable[Task]:
        """Yields every task in a fixed order. It must not start a simulator."""
        raise NotImplementedError(f"{cls.__name__} has no tasks()")

    def __init__(self, config: EnvConfig):
        self.config = config

    def reset(self, task: str, start_state: int, seed: int) -> None:
        """Starts an episode. Steps that only let the scene settle are made here.

        Args:
            task: `Task.id` of the task, a string.
            start_state: 0 .. `Task.start_states`-1. The same number must always give the same scene, whatever the
                seed, because training and test splits are made of start states.
            seed: of everything else that is random in the episode.
        """
        raise NotImplementedError(f"{type(self).__name__} has no reset()")

    def step(self, action: npt.NDArray[np.float32]) -> Step:
        """Executes one action, float32 [action dim], finite and within the action space's bounds."""
        raise NotImplementedError(f"{type(self).__name__} has no step()")

    def proprio(self) -> npt.NDArray[np.floating[Any]]:
        """Returns the state after reset or the last step, [P] finite numbers, sent as float32. It is called only when
        the spec names proprio entries.
        """
        raise NotImplementedError(f"{type(self).__name__} names proprio entries, but has no proprio()")

    def render(self, camera: str) -> npt.NDArray[np.uint8]:
        """Returns a picture of the state after reset or the last step, uint8 [H, W, 3] at `config.cameras[camera]`.

        It is called only when the picture is used. The array may be the simulator's buffer: it is copied before the
        next step.
        """
        raise NotImplementedError(f"{type(self).__name__} has no render()")

    def expert(self) -> npt.NDArray[np.floating[Any]] | None:
        """Returns the scripted expert's next action, [action dim], which may use privileged state.

        None: the expert has no action for this state. The host then gets fewer steps than it asked for; without any
        step the call fails with "unsupported". Optional: with it, srpo can train a starting policy by imitation.
        """
        raise NotImplementedError(f"{type(self).__name__} has no scripted expert")

    def failing_expert(self, failure: str) -> npt.NDArray[np.floating[Any]] | None:
        """Returns the next action of an expert that fails on purpose, [action dim] or None as in `expert`.

        Args:
            failure: the way to fail in this episode, one of `EnvSpec.expert_failures`.

        Optional: `srpo record --actor fail:NAME` uses it to measure rewards on failures.
        """
        raise NotImplementedError(f"{type(self).__name__} names expert_failures, but has no failing_expert()")

    def close(self) -> None:
        """Frees what the lane holds. It has about one second."""
