"""Policies: the classes that an author subclasses and fills in."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from .info import Info
from .spec import ActionSpace, EnvSpec


@dataclass(frozen=True)
class PolicyConfig:
    """The configuration of a policy.

    Args:
        settings: every declared setting by name.
        seed: for initial weights.
        env: the environment that it will act in; None: not known (`srpo plugin test` without an env).
        rank: 0 .. world_size-1, this process's place among those that serve the policy together
            (torch.distributed). All are configured at once; every other call goes to rank 0 only.
        world_size: number of those processes; more than 1 only if `Info.distributed`.
        rendezvous: a private, empty folder in which they can find each other; "" when world_size is 1.
        scratch: a writable folder that the host removes afterwards; "": none.
    """

    settings: dict[str, Any]
    seed: int = 0
    env: EnvSpec | None = None
    rank: int = 0
    world_size: int = 1
    rendezvous: str = ""
    scratch: str = ""


@dataclass(frozen=True)
class PolicySpec:
    """What a policy needs and returns.

    Args:
        cameras: (name, height, width) of the cameras that it needs, pixels; "": the env's recording camera, 0 x 0:
            any size.
        chunk: number of actions in each result of `Policy.act`.
        action: the action space of those actions; None: the env's.
        proprio: whether it reads the proprio vector.
        trainable: whether `Policy.update` trains it; None: whether the class overrides `update`.
        parameters: number of weights.
        max_batch: the largest number of items in a call of `Policy.act`; 0: no limit.
        weighs_steps: whether `Policy.imitate` supports `Demonstration.weights`.
    """

    cameras: Sequence[tuple[str, int, int]]
    chunk: int
    action: ActionSpace | None = None
    proprio: bool = False
    trainable: bool | None = None
    parameters: int = 0
    max_batch: int = 0
    weighs_steps: bool = False


@dataclass(frozen=True)
class Observation:
    """What a policy observes in one lane.

    Args:
        images: uint8 [H, W, 3] by camera name, read-only.
        proprio: float32 [P], read-only; None: the env has none.
        instruction: the task's sentence.
    """

    images: Mapping[str, npt.NDArray[np.uint8]]
    proprio: npt.NDArray[np.float32] | None
    instruction: str


@dataclass(frozen=True)
class ActItem:
    """A lane that needs its next chunk of actions.

    Args:
        trajectory: id of the episode, unique in the run, e.g. "3/task/0/5".
        step: env steps executed before this chunk. (trajectory, step) identifies the chunk in `Policy.update`.
        observation: the lane's current observation.
        seed: for the sampling of this item only.
    """

    trajectory: str
    step: int
    observation: Observation
    seed: int


@dataclass(frozen=True)
class Sampling:
    """How to sample actions.

    Args:
        greedy: take the most likely actions and ignore the seeds.
        temperature: of the sampling distribution, above 0.
        record: keep what `Policy.update` needs.
    """

    greedy: bool = False
    temperature: float = 1.0
    record: bool = False


@dataclass(frozen=True)
class ActResult:
    """A chunk of actions.

    Args:
        actions: float32 [chunk, action dim], finite.
        log_probs: float32 [chunk], one log-probability per action; None: the policy has none.
    """

    actions: npt.NDArray[Any]
    log_probs: npt.NDArray[Any] | None = None


@dataclass(frozen=True)
class Hyperparameters:
    """PPO's clipped objective with a KL penalty to the policy at the start of the run.

    Args:
        clip_low: the ratio is clipped to [1 - clip_low, 1 + clip_high].
        clip_high: see clip_low.
        kl_beta: weight of KL(pi || pi_ref); 0: no penalty.
        epochs: passes over the data.
        mini_batch: chunks per mini-batch; 0: the policy chooses.
        clip_dual: bound of the dual clip for negative advantages; 0: no dual clip.
    """

    clip_low: float
    clip_high: float
    kl_beta: float
    epochs: int
    mini_batch: int
    clip_dual: float


@dataclass(frozen=True)
class Advantage:
    """The advantage of one trajectory.

    Args:
        trajectory: as in `ActItem.trajectory`.
        values: float64, [1] for the whole trajectory or [steps] with one per env step.
        steps: env steps that were executed; mask the recorded actions after them.
    """

    trajectory: str
    values: npt.NDArray[np.float64]
    steps: int


@dataclass(frozen=True)
class Update:
    """One policy update.

    Args:
        id: unique in the run and increasing.
        trajectories: in the order of their ids.
        hyperparameters: of the objective.
        temperature: at which the trajectories were sampled.
        seed: for the order of mini-batches and the like.
    """

    id: int
    trajectories: list[Advantage]
    hyperparameters: Hyperparameters
    temperature: float
    seed: int


@dataclass
class Statistics:
    """The metrics of an update.

    Args:
        loss: mean over the update.
        kl: mean over chunks, by the estimator that the policy's documentation names.
        clip_fraction: mean over the update, 0 to 1.
        grad_norm: mean over the update.
        entropy: mean over the update, nats.
        first_ratio: mean ratio on the first mini-batch, before any gradient step. It is 1 when sampling and training
            compute the same log-probabilities.
        samples: number of chunks trained on.
        extra: further metrics by name.
    """

    loss: float = 0.0
    kl: float = 0.0
    clip_fraction: float = 0.0
    grad_norm: float = 0.0
    entropy: float = 0.0
    first_ratio: float = 1.0
    samples: int = 0
    extra: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Imitate:
    """Supervised training on demonstrations.

    Args:
        id: an update id, from the same sequence as `Update.id`.
        seed: for the order of samples.
        steps: gradient steps; 0: the policy chooses.
    """

    id: int
    seed: int
    steps: int


@dataclass(frozen=True)
class Demonstration:
    """One episode, observed before every action. The policy may keep the arrays.

    Args:
        id: id of the episode.
        instruction: the task's sentence.
        images: uint8 [T, H, W, 3] by camera name.
        proprio: float32 [T, P]; None: the env has none.
        actions: float32 [T, action dim].
        success: whether the episode reached its goal.
        weights: float32 [T], finite and not negative: a factor on the loss of each step's action. Failed episodes
            that have weights are trained on too. None: all 1.
    """

    id: str
    instruction: str
    images: Mapping[str, npt.NDArray[np.uint8]]
    proprio: npt.NDArray[np.float32] | None
    actions: npt.NDArray[np.float32]
    success: bool
    weights: npt.NDArray[np.float32] | None = None


class Policy:
    """A policy that acts in batches and learns from what it records. Subclass it and pass the subclass to `serve`.

    The kit makes it in Configure and calls its methods on the process's main thread, one at a time. The kit answers an
    update id that was applied before from memory (also after `load`), makes saved files durable, copies arrays that
    the policy may keep, and checks what the methods return.
    """

    info: Info

    def __init__(self, config: PolicyConfig):
        self.config = config

    def describe(self) -> PolicySpec:
        """Returns what the policy needs and returns."""
        raise NotImplementedError(f"{type(self).__name__} has no describe()")

    def act(self, items: list[ActItem], sampling: Sampling) -> list[ActResult]:
        """Samples one chunk per item, in the order of the items.

        A result depends on the item's observation, its seed and the weights only, never on the rest of the batch.

        With `sampling.record`, keep what `update` needs under (trajectory, step). The observation's arrays may then be
        kept as they are. Without it they are valid during the call only.

        Raises:
            Error: "diverged" when the result is not finite; it costs the host one episode.
        """
        raise NotImplementedError(f"{type(self).__name__} has no act()")

    def update(self, update: Update, progress: Callable[[float], None]) -> Statistics:
        """Makes one policy update.

        Args:
            update: the advantages and hyperparameters.
            progress: call it now and then with the share that is done, 0 to 1; without it the host's deadline passes.
                It raises `Error` ("canceled") when the host has cancelled the call.
        """
        raise NotImplementedError(f"{type(self).__name__} cannot be trained")

    def forget(self, trajectories: list[str]) -> None:
        """Frees what was recorded for these trajectories; an empty list means all of them."""

    def imitate(
        self, imitate: Imitate, demonstrations: Iterator[Demonstration], progress: Callable[[float, float], None]
    ) -> None:
        """Trains on demonstrations by supervised learning.

        Args:
            imitate: the number of steps and the seed.
            demonstrations: the episodes, received from the host while they are iterated.
            progress: call it now and then with (share done, loss). It raises `Error` ("canceled") when the host has
                cancelled the call.
        """
        raise NotImplementedError(f"{type(self).__name__} has no imitate()")

    def save(self, folder: str) -> None:
        """Writes weights, optimiser state and random state into an existing, empty folder, as plain files."""
        raise NotImplementedError(f"{type(self).__name__} has no save()")

    def load(self, folder: str) -> None:
        """Restores what `save` wrote, and drops what was recorded. The policy must then act the same bit for bit."""
        raise NotImplementedError(f"{type(self).__name__} has no load()")

    def begin_run(self) -> None:
        """Called after `load` when a new run starts from the weights that another run saved.

        Reset the optimiser's moments, and take the present weights as the reference of the KL penalty. A policy that
        has neither does not need to override it. A resumed run calls `load` only.
        """

    def close(self) -> None:
        """Frees what the policy holds. It has about one second."""
