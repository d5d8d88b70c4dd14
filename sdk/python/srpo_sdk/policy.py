"""Policies: what an author writes."""

from dataclasses import dataclass, field
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

import numpy as np

from .info import Info
from .spec import ActionSpace, EnvSpec


@dataclass(frozen=True)
class PolicyConfig:
    """What the host tells a policy.

    Args:
        settings: every declared setting by name.
        seed: for initial weights.
        env: the environment that it will act in; None: not known yet (`srpo plugin test`).
        rank, world_size: place among the processes that serve this role together (torch.distributed); more than one
            only where `Info` says distributed. All are configured at once; every other call comes to rank 0 alone.
        rendezvous: a private folder where they meet; "" when world_size is 1.
        scratch: a folder that may be written to; the host removes it afterwards.
    """

    settings: Dict[str, Any]
    seed: int = 0
    env: Optional[EnvSpec] = None
    rank: int = 0
    world_size: int = 1
    rendezvous: str = ""
    scratch: str = ""


@dataclass(frozen=True)
class PolicySpec:
    """What a policy says of itself.

    Args:
        cameras: (name, height, width) of those it reads; "": the env's recording camera, 0 x 0: any size.
        chunk: actions that it emits at once.
        action: the action space that it emits; None: the env's.
        proprio: whether it reads the proprio vector.
        trainable: whether `Policy.update` does anything; None: whether the policy overrides it.
        parameters: number of weights.
        max_batch: items that `Policy.act` likes to get at once, and gets at most; 0: any number.
        weighs_steps: whether `Policy.imitate` honours `Demonstration.weights`.
    """

    cameras: Sequence[Tuple[str, int, int]]
    chunk: int
    action: Optional[ActionSpace] = None
    proprio: bool = False
    trainable: Optional[bool] = None
    parameters: int = 0
    max_batch: int = 0
    weighs_steps: bool = False


@dataclass(frozen=True)
class Observation:
    """What a policy sees.

    Args:
        images: uint8 [H, W, 3] by camera name, read-only.
        proprio: float32 [P], read-only; None: the env has none.
        instruction: the task in words.
    """

    images: Mapping[str, np.ndarray]
    proprio: Optional[np.ndarray]
    instruction: str


@dataclass(frozen=True)
class ActItem:
    """One lane's turn.

    Args:
        trajectory: unique in the run, e.g. "3/task/0/5"; with step it keys what `Policy.update` needs.
        step: env steps executed before this chunk.
        observation: what the lane sees.
        seed: seeds the sampling of this item alone.
    """

    trajectory: str
    step: int
    observation: Observation
    seed: int


@dataclass(frozen=True)
class Sampling:
    """How to sample.

    Args:
        greedy: take the most likely actions; seeds are then ignored.
        temperature: of the sampling distribution.
        record: keep what `Policy.update` needs.
    """

    greedy: bool = False
    temperature: float = 1.0
    record: bool = False


@dataclass(frozen=True)
class ActResult:
    """A chunk of actions.

    Args:
        actions: float32 [chunk, action dim].
        log_probs: float32 [chunk], one log-probability a position; None: the policy has none.
    """

    actions: np.ndarray
    log_probs: Optional[np.ndarray] = None


@dataclass(frozen=True)
class Hyperparameters:
    """Of one update: PPO's clipped objective with KL to the starting policy.

    Args:
        clip_low, clip_high: the ratio is clipped to [1 - clip_low, 1 + clip_high].
        kl_beta: weight of KL(pi || pi_ref); 0: none.
        epochs: passes over the data.
        mini_batch: chunks in a mini-batch; 0: the policy's own choice.
        clip_dual: bound of the dual clip for negative advantages; 0: none.
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
        trajectory: as `ActItem.trajectory`.
        values: float64 [1], for the whole trajectory, or [steps], one an env step.
        steps: env steps executed; recorded actions beyond are masked.
    """

    trajectory: str
    values: np.ndarray
    steps: int


@dataclass(frozen=True)
class Update:
    """One policy update.

    Args:
        id: unique in the run, growing.
        trajectories: in the order of their ids.
        hyperparameters: of the objective.
        temperature: at which the trajectories were sampled.
        seed: for the order of mini-batches and the like.
    """

    id: int
    trajectories: List[Advantage]
    hyperparameters: Hyperparameters
    temperature: float
    seed: int


@dataclass
class Statistics:
    """What an update did.

    Args:
        loss, clip_fraction, grad_norm, entropy: means over the update.
        kl: mean over chunks of the estimate that the policy's docs name.
        first_ratio: mean ratio on the first mini-batch before any step: 1 when sampling and training agree.
        samples: chunks trained on.
        extra: more numbers by name.
    """

    loss: float = 0.0
    kl: float = 0.0
    clip_fraction: float = 0.0
    grad_norm: float = 0.0
    entropy: float = 0.0
    first_ratio: float = 1.0
    samples: int = 0
    extra: Dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Imitate:
    """Supervised training on demonstrations.

    Args:
        id: an update id, from the same sequence as `Update.id`.
        seed: for the order of samples.
        steps: gradient steps; 0: the policy's own choice.
    """

    id: int
    seed: int
    steps: int


@dataclass(frozen=True)
class Demonstration:
    """One episode, observed before every action. The arrays are the policy's to keep.

    Args:
        id: of the episode.
        instruction: the task in words.
        images: uint8 [T, H, W, 3] by camera name.
        proprio: float32 [T, P]; None: the env has none.
        actions: float32 [T, action dim].
        success: whether the episode reached its goal.
        weights: float32 [T], finite and 0 or more: a factor on the loss of each step's action. Where it is given, a
            failed episode is learned from too. None: all 1.
    """

    id: str
    instruction: str
    images: Mapping[str, np.ndarray]
    proprio: Optional[np.ndarray]
    actions: np.ndarray
    success: bool
    weights: Optional[np.ndarray] = None


class Policy:
    """Acts in batches and learns from what it recorded while acting. Subclass it and call `srpo_sdk.serve` with the
    subclass.

    It is made at Configure. All of its methods run on the process's main thread, one at a time. The package sees to
    update ids (one that was applied before is
    answered from memory, also after load), to fsync after save, to copies where arrays may be kept, and to checking
    what comes back.
    """

    info: Info

    def __init__(self, config: PolicyConfig):
        self.config = config

    def describe(self) -> PolicySpec:
        """Returns what the policy is."""
        raise NotImplementedError(f"{type(self).__name__} has no describe()")

    def act(self, items: List[ActItem], sampling: Sampling) -> List[ActResult]:
        """Samples one chunk for each item. A result depends on its observation, its seed and the weights, never on the
        batch.

        With sampling.record, what update needs is kept under (trajectory, step); the observation's arrays may then be
        kept as they are, else they are valid
        during the call only.
        """
        raise NotImplementedError(f"{type(self).__name__} has no act()")

    def update(self, update: Update, progress: Callable[[float], None]) -> Statistics:
        """Makes one policy update. Call progress(0 to 1) now and then: it also raises when the host has cancelled."""
        raise NotImplementedError(f"{type(self).__name__} cannot be trained")

    def forget(self, trajectories: List[str]) -> None:
        """Frees what was recorded for trajectories; an empty list: for all."""

    def imitate(
        self, imitate: Imitate, demonstrations: Iterator[Demonstration], progress: Callable[[float, float], None]
    ) -> None:
        """Trains on demonstrations by supervised learning. Call progress(share done, loss) now and then: it also
        raises when the host has cancelled.
        """
        raise NotImplementedError(f"{type(self).__name__} has no imitate()")

    def save(self, folder: str) -> None:
        """Writes weights, optimiser and RNG state into an existing empty folder."""
        raise NotImplementedError(f"{type(self).__name__} has no save()")

    def load(self, folder: str) -> None:
        """Restores what save wrote, and forgets what was recorded."""
        raise NotImplementedError(f"{type(self).__name__} has no load()")

    def begin_run(self) -> None:
        """Called after load when a new run begins with what another one saved: forget the optimiser's moments, and
        measure KL to the policy as it is now. A policy without either needs none of this.
        """

    def close(self) -> None:
        """Frees what the policy holds; about a second is left for it."""
