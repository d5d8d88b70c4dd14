"""Errors that keep kind, place and hint on their way to the host."""

import errno
import sys
import traceback

# In the order of srpo.v1.ErrorKind.
KINDS = (
    "invalid",  # the caller's input is wrong: a setting, a task id, an action
    "not found",  # asked for something that is not there: a file, a task, a camera
    "unsupported",  # this plugin does not do that
    "mismatch",  # two sides do not fit: action spaces, sizes, versions
    "exhausted",  # out of memory, disk or GPU memory
    "deadline",  # a deadline passed
    "canceled",  # the call was cancelled
    "unavailable",  # the plugin process is gone
    "corrupt",  # a reply, a file or a package is not what it must be
    "internal",  # a fault inside the plugin
    "diverged",  # numbers of a computation are not finite, or cannot be used
)


class Error(Exception):
    """A failure that the host shows to the user.

    Args:
        kind: one of `KINDS` ("not_found" is taken as "not found").
        message: what failed, one sentence.
        place: where: "libero_object/... start state 17", "weights.npz".
        hint: what the user can do about it, one sentence.
        detail: more for a person who looks.
    """

    def __init__(self, kind: str, message: str, *, place: str = "", hint: str = "", detail: str = ""):
        kind = kind.replace("_", " ")
        if kind not in KINDS:
            raise ValueError(f"unknown error kind {kind!r}; one of {', '.join(KINDS)}")
        super().__init__(message)
        self.kind, self.message, self.place, self.hint, self.detail = kind, message, place, hint, detail

    def __str__(self) -> str:
        return f"{self.place}: {self.message}" if self.place else self.message

    def at(self, place: str) -> "Error":
        """Returns the same error with an outer place put before its own, unless that begins with it."""
        said = self.place == place or self.place.startswith(place + ", ")
        outer = self.place if said else f"{place}, {self.place}" if self.place else place
        return Error(self.kind, self.message, place=outer, hint=self.hint, detail=self.detail).with_traceback(
            self.__traceback__
        )


def as_error(exc: BaseException, place: str = "") -> Error:
    """Returns any exception as an `Error`: its own kind where it has one, "exhausted" for memory, else "internal" with
    the traceback's last lines.
    """
    if isinstance(exc, Error):
        return exc.at(place) if place else exc
    lines = "".join(traceback.format_exception(type(exc), exc, exc.__traceback__)).rstrip().splitlines()
    detail = "\n".join(lines[-10:])
    name = type(exc).__name__
    text = str(exc).strip()
    message = f"{name}: {text.splitlines()[0]}" if text else name
    if (
        isinstance(exc, MemoryError) or name == "OutOfMemoryError"
    ):  # torch.cuda.OutOfMemoryError, without importing torch
        return Error("exhausted", message, place=place, hint="use fewer lanes or smaller batches", detail=detail)
    if isinstance(exc, OSError) and exc.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        hint = "raise `ulimit -f`" if exc.errno == errno.EFBIG else "make room on the disk, or use another one"
        return Error("exhausted", message, place=place, hint=hint, detail=detail)
    if isinstance(exc, NotImplementedError):
        return Error("unsupported", message, place=place, detail=detail)
    print("\n".join(lines), file=sys.stderr, flush=True)
    return Error(
        "internal",
        message,
        place=place,
        hint="a fault in the plugin; its stderr has the whole traceback",
        detail=detail,
    )
