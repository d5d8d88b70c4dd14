"""Encoders: the classes that an author subclasses and fills in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .info import Info


@dataclass(frozen=True)
class EncoderSpec:
    """What an encoder returns, and how it likes its input.

    Args:
        dimension: length of an embedding.
        frames: frames that it samples from a clip; 0: it uses all of them.
        height: pixels to which it resizes; 0: any.
        width: pixels to which it resizes; 0: any.
        batch: the largest number of clips in a call of `Encoder.encode`; 0: no limit.
        frame_wise: whether it encodes frame by frame, so that all windows of a clip cost no more than the clip.
        model: identifies the weights, e.g. by a hash. The same version, settings and model must give the same
            embedding for the same clip, because embeddings are cached by them. Empty: version and settings suffice.
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
    """The configuration of an encoder.

    Args:
        settings: every declared setting by name.
        seed: for anything random; an encoder is frozen, so it seldom needs it.
        rank: 0 .. world_size-1, this process's place among those that serve the encoder together.
        world_size: number of those processes.
        rendezvous: a private, empty folder in which they can find each other; "" when world_size is 1.
        scratch: a writable folder that the host removes afterwards; "": none.
    """

    settings: dict[str, Any]
    seed: int = 0
    rank: int = 0
    world_size: int = 1
    rendezvous: str = ""
    scratch: str = ""


class Encoder:
    """A frozen network that turns a clip into one vector. Subclass it and pass the subclass to `serve`.

    The kit makes it in Configure, so missing weights are reported at the start. It calls all methods on the process's
    main thread.
    """

    info: Info

    @classmethod
    def describe(cls, settings: dict[str, Any]) -> EncoderSpec:
        """Returns what the encoder returns. It must not load weights."""
        raise NotImplementedError(f"{cls.__name__} has no describe()")

    def __init__(self, config: EncoderConfig):
        self.config = config

    def encode(self, clips: list[npt.NDArray[np.uint8]]) -> npt.NDArray[Any]:
        """Returns the embeddings of N clips, float32 [N, dimension].

        Args:
            clips: each uint8 [T, H, W, 3] with T >= 1, read-only and valid during the call only.

        Raises:
            ValueError: a clip cannot be embedded. The others of the batch are then encoded without it. A row of NaN
                means the same for one clip.
        """
        raise NotImplementedError(f"{type(self).__name__} has no encode()")

    def encode_windows(self, clip: npt.NDArray[np.uint8], ends: Sequence[int]) -> npt.NDArray[Any]:
        """Returns the embeddings of clip[:end] for each end, float32 [len(ends), dimension].

        Optional: override it if windows can share work. Otherwise the kit passes the windows to `encode`.
        """
        raise NotImplementedError

    def close(self) -> None:
        """Frees what the encoder holds. It has about one second."""
