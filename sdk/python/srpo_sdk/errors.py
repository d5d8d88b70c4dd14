"""Errors that keep their kind, place and hint on the way to the host."""

from __future__ import annotations

import errno
import sys
import traceback
from typing import Literal, cast, get_args

ErrorKind = Literal[
    "invalid",  # the caller's input is wrong: a setting, a task id, an action
    "not found",  # what was asked for does not exist: a file, a task, a camera
    "unsupported",  # the plugin cannot do this
    "mismatch",  # two sides do not fit: action spaces, sizes, versions
    "exhausted",  # out of memory, disk or GPU memory
    "deadline",  # a deadline passed
    "canceled",  # the call was cancelled
    "unavailable",  # the plugin process, or a server it needs, is gone
    "corrupt",  # a reply, a file or a package is malformed
    "internal",  # a bug inside the plugin
    "diverged",  # the result of a computation is not finite, or unusable
]
#: Every kind, in the order of srpo.v1.ErrorKind.
KINDS: tuple[ErrorKind, ...] = get_args(ErrorKind)

_TRACEBACK_LINES = 10  # of a traceback, the last lines say most


class Error(Exception):
    """A failure that the host shows to the user.

    Args:
        kind: one of `KINDS`; "not_found" is accepted for "not found".
        message: what failed, one sentence without a trailing period.
        place: where, e.g. "libero_object/... start state 17" or "weights.npz".
        hint: what the user can do about it, in the imperative.
        detail: further text for debugging, e.g. a traceback.

    Raises:
        ValueError: the kind is unknown.
    """

    def __init__(self, kind: ErrorKind, message: str, *, place: str = "", hint: str = "", detail: str = ""):
        kind = cast(ErrorKind, kind.replace("_", " "))
        if kind not in KINDS:
            raise ValueError(f"unknown error kind {kind!r}; one of {', '.join(KINDS)}")
        super().__init__(message)
        self.kind: ErrorKind = kind
        self.message, self.place, self.hint, self.detail = message, place, hint, detail

    def __str__(self) -> str:
        return f"{self.place}: {self.message}" if self.place else self.message

    def at(self, place: str) -> Error:
        """Returns a copy of the error with place put before the existing place, unless that already begins with it."""
        if self.place == place or self.place.startswith(place + ", "):
            place = self.place
        elif self.place:
            place = f"{place}, {self.place}"
        copy = Error(self.kind, self.message, place=place, hint=self.hint, detail=self.detail)
        return copy.with_traceback(self.__traceback__)


def as_error(exc: BaseException, place: str = "") -> Error:
    """Returns any exception as an `Error`.

    An `Error` keeps its kind. Out of memory, of GPU memory and of disk become "exhausted", NotImplementedError becomes
    "unsupported". Everything else becomes "internal", with the last lines of the traceback as detail; the whole
    traceback goes to stderr, which is the plugin's log.
    """
    if isinstance(exc, Error):
        return exc.at(place) if place else exc
    lines = "".join(traceback.format_exception(type(exc), exc, exc.__traceback__)).rstrip().splitlines()
    detail = "\n".join(lines[-_TRACEBACK_LINES:])
    name = type(exc).__name__
    text = str(exc).strip()
    message = f"{name}: {text.splitlines()[0]}" if text else name
    # By name, because torch.cuda.OutOfMemoryError must not cost an import of torch.
    if isinstance(exc, MemoryError) or name == "OutOfMemoryError":
        return Error("exhausted", message, place=place, hint="use fewer lanes or smaller batches", detail=detail)
    if isinstance(exc, OSError) and exc.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        hint = "raise `ulimit -f`" if exc.errno == errno.EFBIG else "free disk space, or use another disk"
        return Error("exhausted", message, place=place, hint=hint, detail=detail)
    if isinstance(exc, NotImplementedError):
        return Error("unsupported", message, place=place, detail=detail)
    print("\n".join(lines), file=sys.stderr, flush=True)
    return Error(
        "internal", message, place=place, hint="a bug in the plugin; its log has the whole traceback", detail=detail
    )
