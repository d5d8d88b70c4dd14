"""Encoders: what an author writes."""

from dataclasses import dataclass
from typing import Any, Dict, List, Sequence

import numpy as np

from .info import Info


@dataclass(frozen=True)
class EncoderSpec:
    """What an encoder says of itself.

    Args:
        dimension: length of the vector.
        frames: frames that it samples from a clip; 0: it uses all.
        height, width: size that it resizes to, pixels; 0: any.
        batch: clips that `Encoder.encode` likes to get at once, and gets at most; 0: any number.
        frame_wise: whether it encodes frame by frame, so that windows cost no more than the clip.
        model: what the vectors come from, e.g. a hash over the weights: with the same version, settings and model, the
            same clip gives the same vector. Empty: version and settings say it all.
    """

    dimension: int
    frames: int = 0
    height: int = 0
    width: int = 0
    batch: int = 0
    frame_wise: bool = False
    model: str = ""


@dataclass(frozen=True)
class EncoderConfig:
    """What the host tells an encoder.

    Args:
        settings: every declared setting by name.
        seed: for anything random; an encoder is frozen, so it seldom has use for it.
        rank, world_size: place among the processes that serve this role together.
        rendezvous: a private folder where they meet; "" when world_size is 1.
        scratch: a folder that may be written to; the host removes it afterwards.
    """

    settings: Dict[str, Any]
    seed: int = 0
    rank: int = 0
    world_size: int = 1
    rendezvous: str = ""
    scratch: str = ""


class Encoder:
    """A frozen network that turns a clip into one vector. Subclass it and call `srpo_sdk.serve` with the subclass.

    It is made at Configure, so weights that are missing are reported at the start. All of its methods run on the
    process's main thread.
    """

    info: Info

    @classmethod
    def describe(cls, settings: Dict[str, Any]) -> EncoderSpec:
        """Returns what the encoder is; loads no weights."""
        raise NotImplementedError(f"{cls.__name__} has no describe()")

    def __init__(self, config: EncoderConfig):
        self.config = config

    def encode(self, clips: List[np.ndarray]) -> np.ndarray:
        """Returns float32 [N, dimension] for N clips, each uint8 [T, H, W, 3] with T >= 1, read-only and valid during
        the call only.

        A clip that cannot be embedded gets a row of NaN, or raises ValueError: the others of the batch are then
        encoded without it.
        """
        raise NotImplementedError(f"{type(self).__name__} has no encode()")

    def encode_windows(self, clip: np.ndarray, ends: Sequence[int]) -> np.ndarray:
        """Returns float32 [len(ends), dimension], the vectors of clip[:end]. Override it where frames can be shared;
        without, `encode` gets the windows.
        """
        raise NotImplementedError

    def close(self) -> None:
        """Frees what the encoder holds; about a second is left for it."""
