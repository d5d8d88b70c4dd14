"""An environment seen from outside: cameras, action space, proprio."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ._proto import base_pb2 as pb
from .errors import Error

THIRD_PERSON = "third_person"
WRIST = "wrist"

# How far outside of its bounds an action may be and still be clipped: rounding, not intent.
TOLERANCE = 1e-6


@dataclass(frozen=True)
class Camera:
    """A view that an env can render, uint8 [height, width, 3].

    Args:
        name: unique within the env.
        height: native height, pixels.
        width: native width, pixels.
        view: "third_person" or "wrist".
        any_size: whether it can be rendered at any other size.
    """

    name: str
    height: int
    width: int
    view: str = THIRD_PERSON
    any_size: bool = False


@dataclass(frozen=True)
class ActionSpace:
    """The meaning and the range of each number in an action.

    Args:
        names: one per dimension, e.g. ["dx", "dy", "gripper"].
        low: inclusive lower bounds, one per dimension.
        high: inclusive upper bounds, one per dimension.
        meaning: a sentence, the same for env and policy: "end-effector delta, OSC_POSE; gripper -1 open, +1 close".
        rate_hz: actions per second.
    """

    names: Sequence[str] = ()
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    meaning: str = ""
    rate_hz: float = 0.0

    @property
    def dim(self) -> int:
        """The number of dimensions."""
        return len(self.names)

    def check(self) -> None:
        """Raises `Error` ("corrupt") unless there are a name and finite bounds with low < high for each dimension."""
        if not self.names or len(self.low) != len(self.names) or len(self.high) != len(self.names):
            raise Error(
                "corrupt",
                f"action space has {len(self.names)} names, {len(self.low)} lows and {len(self.high)} highs",
                hint="give one name, low and high per dimension in describe()",
            )
        for name, low, high in zip(self.names, self.low, self.high):
            if not (math.isfinite(low) and math.isfinite(high) and low < high):
                raise Error(
                    "corrupt",
                    f"action dimension {name!r} has low {low}, high {high}",
                    hint="give finite bounds with low below high",
                )

    def clip(self, actions: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """Returns a chunk of actions clipped to the bounds, float32 [n, dim] with n >= 1.

        Only values that are outside by rounding are clipped. Anything else is refused:

        Raises:
            Error: "invalid" for another type or shape, and for a value that is not finite or out of bounds by more
                than 1e-6. The message names the first such value.
        """
        chunk = np.asarray(actions)
        names = self.names
        if chunk.dtype != np.float32 or chunk.ndim != 2 or chunk.shape[1] != len(names) or chunk.shape[0] == 0:
            raise Error(
                "invalid",
                f"actions are {chunk.dtype.name} {list(chunk.shape)}, want float32 [n, {len(names)}] with n >= 1",
                hint=f"give one number each for {', '.join(names)}",
            )
        low, high = np.asarray(self.low, np.float32), np.asarray(self.high, np.float32)
        bad = ~((chunk >= low - TOLERANCE) & (chunk <= high + TOLERANCE))  # NaN is bad too
        if bad.any():
            i, d = np.argwhere(bad)[0]
            raise Error(
                "invalid",
                f"action {i} of the chunk: {names[d]} (dimension {d}) is {chunk[i, d]:g}, outside of "
                f"[{low[d]:g}, {high[d]:g}]",
                hint="clip what the policy returns to the env's action space",
            )
        clipped: npt.NDArray[np.float32] = np.clip(chunk, low, high)
        return clipped


@dataclass(frozen=True)
class EnvSpec:
    """An environment seen from outside.

    Args:
        cameras: every camera that it has.
        action: its action space.
        proprio: names of the proprio vector's entries, with units: ["eef_x [m]", ...]; empty: no proprio.
        record_camera: the camera that the encoder gets; "": the first third-person camera.
        expert: whether there is a scripted expert for at least some tasks; None: whether the class overrides
            `Env.expert`.
        expert_failures: names of the ways in which the expert can fail on purpose (`Env.failing_expert`), e.g.
            ["drop", "miss"]. `srpo record --actor fail:NAME` uses them to measure rewards on failures.
    """

    cameras: Sequence[Camera]
    action: ActionSpace
    proprio: Sequence[str] = ()
    record_camera: str = ""
    expert: bool | None = None
    expert_failures: Sequence[str] = ()

    def camera(self, name: str) -> Camera:
        """Returns a camera by name ("": the recording camera). Raises `Error` ("not found")."""
        wanted = name or self.recording()
        for camera in self.cameras:
            if camera.name == wanted:
                return camera
        raise Error(
            "not found",
            f"no camera {wanted!r}",
            hint=f"this env has {', '.join(c.name for c in self.cameras) or 'no cameras'}",
        )

    def recording(self) -> str:
        """Returns the name of the camera that the encoder gets; "" when there is none."""
        return self.record_camera or next((c.name for c in self.cameras if c.view == THIRD_PERSON), "")

    def size(self, name: str, height: int = 0, width: int = 0) -> tuple[int, int]:
        """Returns the (height, width) in pixels at which a camera is rendered when this size is requested.

        0 x 0 requests the native size. Raises `Error`: "mismatch" for a size that the camera cannot render, "not
        found" for an unknown camera.
        """
        camera = self.camera(name)
        if height == 0 and width == 0:
            return camera.height, camera.width
        if height <= 0 or width <= 0 or (not camera.any_size and (height, width) != (camera.height, camera.width)):
            raise Error(
                "mismatch",
                f"camera {camera.name!r} cannot be rendered at {height}x{width}",
                hint=f"it gives {camera.height}x{camera.width} only",
            )
        return height, width

    def check(self) -> None:
        """Raises `Error` ("corrupt") for a description that no host can use."""
        self.action.check()
        names = [c.name for c in self.cameras]
        if len(set(names)) != len(names) or "" in names:
            raise Error("corrupt", f"cameras need different, non-empty names, got {names}")
        for c in self.cameras:
            if c.height <= 0 or c.width <= 0 or c.view not in (THIRD_PERSON, WRIST):
                raise Error(
                    "corrupt",
                    f"camera {c.name!r} has size {c.height}x{c.width} and view {c.view!r}",
                    hint=f'give sizes above 0 and the view "{THIRD_PERSON}" or "{WRIST}"',
                )
        if self.record_camera:
            self.camera(self.record_camera)

    def to_proto(self, expert: bool = False) -> pb.EnvSpec:
        """Returns the wire form. The argument expert is used where `EnvSpec.expert` is None."""
        return pb.EnvSpec(
            cameras=[
                pb.Camera(name=c.name, height=c.height, width=c.width, view=c.view, any_size=c.any_size)
                for c in self.cameras
            ],
            action=action_to_proto(self.action),
            proprio=self.proprio,
            record_camera=self.recording(),
            expert=expert if self.expert is None else self.expert,
            expert_failures=self.expert_failures,
        )

    @staticmethod
    def from_proto(m: pb.EnvSpec) -> EnvSpec:
        return EnvSpec(
            cameras=[Camera(c.name, c.height, c.width, c.view, c.any_size) for c in m.cameras],
            action=action_from_proto(m.action),
            proprio=list(m.proprio),
            record_camera=m.record_camera,
            expert=m.expert,
            expert_failures=list(m.expert_failures),
        )


def action_to_proto(a: ActionSpace) -> pb.ActionSpace:
    return pb.ActionSpace(
        names=a.names,
        low=np.asarray(a.low, np.float32).tolist(),
        high=np.asarray(a.high, np.float32).tolist(),
        meaning=a.meaning,
        rate_hz=a.rate_hz,
    )


def action_from_proto(m: pb.ActionSpace) -> ActionSpace:
    return ActionSpace(list(m.names), list(m.low), list(m.high), m.meaning, m.rate_hz)
