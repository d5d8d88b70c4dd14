"""What a policy and a host must know of an environment: cameras, actions, proprio."""

import math
from dataclasses import dataclass
from typing import Optional, Sequence, Tuple

import numpy as np

from ._proto import base_pb2 as pb
from .errors import Error

THIRD_PERSON = "third_person"
WRIST = "wrist"


@dataclass(frozen=True)
class Camera:
    """A view that an env can render, uint8 [height, width, 3].

    Args:
        name: unique within the env.
        height, width: its own size, pixels.
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
    """What an action's numbers are.

    Args:
        names: one a dimension, e.g. ["dx", "dy", "gripper"].
        low, high: inclusive bounds, one a dimension.
        meaning: in words, the same for env and policy: "end-effector delta, OSC_POSE; gripper -1 open, +1 close".
        rate_hz: actions a second.
    """

    names: Sequence[str] = ()
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    meaning: str = ""
    rate_hz: float = 0.0

    @property
    def dim(self) -> int:
        return len(self.names)

    def check(self) -> None:
        """Raises `Error` ("corrupt") for a space that no policy could use."""
        if not self.names or len(self.low) != len(self.names) or len(self.high) != len(self.names):
            raise Error(
                "corrupt",
                f"action space has {len(self.names)} names, {len(self.low)} lows and {len(self.high)} highs",
                hint="describe() must give one name, low and high a dimension",
            )
        for name, low, high in zip(self.names, self.low, self.high):
            if not (math.isfinite(low) and math.isfinite(high) and low < high):
                raise Error(
                    "corrupt",
                    f"action dimension {name!r} has low {low}, high {high}",
                    hint="low must be below high, and both finite",
                )


@dataclass(frozen=True)
class EnvSpec:
    """What an env is, seen from outside.

    Args:
        cameras: every camera it has.
        action: its action space.
        proprio: names of the proprio vector's entries, with units: ["eef_x [m]", ...]; empty: no proprio.
        record_camera: the camera that the encoder should see; "": the first third-person one.
        expert: whether there is a scripted expert for (some of) the tasks; None: whether the env overrides
            `Env.expert`.
        expert_failures: ways in which the expert can fail on purpose (`Env.failing_expert`), for measuring rewards.
    """

    cameras: Sequence[Camera]
    action: ActionSpace
    proprio: Sequence[str] = ()
    record_camera: str = ""
    expert: Optional[bool] = None
    expert_failures: Sequence[str] = ()

    def camera(self, name: str) -> Camera:
        """Returns a camera by name ("": the recording camera), or raises `Error` ("not found")."""
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
        """Returns the name of the camera that the encoder should see; "" when there is none."""
        return self.record_camera or next((c.name for c in self.cameras if c.view == THIRD_PERSON), "")

    def size(self, name: str, height: int = 0, width: int = 0) -> Tuple[int, int]:
        """Returns the (height, width) that a request for a camera means; 0 x 0 is the camera's own size. Raises
        `Error` ("mismatch") for one it cannot render.
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
        """Raises `Error` ("corrupt") for a description that no host could use."""
        self.action.check()
        names = [c.name for c in self.cameras]
        if len(set(names)) != len(names) or "" in names:
            raise Error("corrupt", f"cameras need different, non-empty names, got {names}")
        for c in self.cameras:
            if c.height <= 0 or c.width <= 0 or c.view not in (THIRD_PERSON, WRIST):
                raise Error(
                    "corrupt",
                    f"camera {c.name!r} has size {c.height}x{c.width} and view {c.view!r}",
                    hint=f'sizes are above 0, the view is "{THIRD_PERSON}" or "{WRIST}"',
                )
        if self.record_camera:
            self.camera(self.record_camera)

    def to_proto(self, expert: bool = False) -> pb.EnvSpec:
        """Returns the wire form; expert stands in where the spec leaves it open."""
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
    def from_proto(m: pb.EnvSpec) -> "EnvSpec":
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
        low=np.asarray(a.low, np.float32),
        high=np.asarray(a.high, np.float32),
        meaning=a.meaning,
        rate_hz=a.rate_hz,
    )


def action_from_proto(m: pb.ActionSpace) -> ActionSpace:
    return ActionSpace(list(m.names), list(m.low), list(m.high), m.meaning, m.rate_hz)
