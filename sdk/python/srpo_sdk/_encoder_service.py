"""The EncoderPlugin service over an author's `Encoder`."""

from __future__ import annotations

import sys

import numpy as np
import numpy.typing as npt

from ._calls import Call
from ._proto import base_pb2 as pb
from ._proto import encoder_pb2
from ._server import Handler, Service
from .encoder import Encoder, EncoderConfig, EncoderSpec
from .errors import Error
from .tensors import Array, Writer, read


class EncoderService(Service):
    """Serves an `Encoder` subclass."""

    kind = pb.KIND_ENCODER
    name = "srpo.v1.EncoderPlugin"

    cls: type[Encoder]
    spec: EncoderSpec
    encoder: Encoder

    def configure(self, request: pb.ConfigureRequest) -> None:
        self.spec = self.cls.describe(dict(self.settings))
        if not isinstance(self.spec, EncoderSpec) or self.spec.dimension < 1:
            raise Error(
                "corrupt",
                f"describe() gave {self.spec!r}",
                hint="return srpo.EncoderSpec with a dimension of 1 or more",
            )
        self.encoder = self.cls(
            EncoderConfig(
                dict(self.settings),
                request.seed,
                request.rank,
                request.world_size or 1,
                request.rendezvous,
                request.scratch,
            )
        )

    def handlers(self) -> dict[str, Handler]:
        return {
            "DescribeEncoder": self.unary(
                encoder_pb2.DescribeEncoderRequest, "DescribeEncoder", lambda r, call: self._describe()
            ),
            "Encode": self.unary(
                encoder_pb2.EncodeRequest, "Encode", self._encode, lambda r: f"Encode {len(r.clips)} clips"
            ),
            "EncodeWindows": self.unary(
                encoder_pb2.EncodeWindowsRequest,
                "EncodeWindows",
                self._windows,
                lambda r: f"EncodeWindows {len(r.ends)} ends",
            ),
        }

    def close(self) -> None:
        if self._configured:
            self.encoder.close()

    def _describe(self) -> encoder_pb2.EncoderSpec:
        s = self.spec
        return encoder_pb2.EncoderSpec(
            dimension=s.dimension,
            frames=s.frames,
            height=s.height,
            width=s.width,
            batch=s.batch,
            frame_wise=s.frame_wise,
            model=s.model,
        )

    def _clip(self, tensor: pb.Tensor, what: str) -> Array:
        clip = read(tensor, self.arena, what)
        if clip.dtype != np.uint8 or clip.ndim != 4 or clip.shape[3] != 3 or 0 in clip.shape:
            raise Error(
                "invalid",
                f"{what} is {clip.dtype.name} {list(clip.shape)}, want uint8 [T, H, W, 3] with T of 1 or more",
            )
        return clip

    def _encode(self, request: encoder_pb2.EncodeRequest, call: Call) -> encoder_pb2.EncodeReply:
        clips = [self._clip(t, f"clip {i}") for i, t in enumerate(request.clips)]
        return self._reply(self.author.run(call, lambda: self._in_batches(clips, call)))

    def _windows(self, request: encoder_pb2.EncodeWindowsRequest, call: Call) -> encoder_pb2.EncodeReply:
        clip = self._clip(request.clip, "the clip")
        ends = list(request.ends)
        for end in ends:
            if not 1 <= end <= len(clip):
                raise Error("invalid", f"a window ends at {end}, the clip has {len(clip)} frames")

        def work() -> Array:
            if not ends:
                return np.empty((0, self.spec.dimension), np.float32)
            if type(self.encoder).encode_windows is Encoder.encode_windows:
                return self._in_batches([clip[:end] for end in ends], call)
            return self._check(self.encoder.encode_windows(clip, ends), len(ends), "encode_windows")

        return self._reply(self.author.run(call, work))

    def _in_batches(self, clips: list[npt.NDArray[np.uint8]], call: Call) -> Array:
        rows = np.empty((len(clips), self.spec.dimension), np.float32)
        size = self.spec.batch or max(1, len(clips))
        for start in range(0, len(clips), size):
            call.report_progress()
            batch = clips[start : start + size]
            try:
                rows[start : start + size] = self._check(self.encoder.encode(batch), len(batch), "encode")
            except ValueError:
                # One bad clip must not fail the others, and its result must not depend on the rest of the batch.
                for i, clip in enumerate(batch):
                    call.report_progress()
                    try:
                        rows[start + i] = self._check(self.encoder.encode([clip]), 1, "encode")[0]
                    except ValueError as e:
                        print(f"clip {start + i} {list(clip.shape)} cannot be encoded: {e}", file=sys.stderr)
                        rows[start + i] = np.nan
        return rows

    def _check(self, rows: npt.ArrayLike, count: int, method: str) -> Array:
        rows = np.array(rows, np.float32)
        if rows.shape != (count, self.spec.dimension):
            raise Error(
                "internal",
                f"{method}() gave shape {list(rows.shape)}, want [{count}, {self.spec.dimension}]",
                hint="return one row per clip, of the dimension in describe()",
            )
        rows[~np.isfinite(rows).all(axis=1)] = np.nan
        return rows

    def _reply(self, rows: Array) -> encoder_pb2.EncodeReply:
        return encoder_pb2.EncodeReply(embeddings=Writer(None, None).put(rows))
