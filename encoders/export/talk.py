"""The protocol between srpo and the programs of this folder, which srpo runs: reports, one result or error, one end.

srpo passes two file descriptors. The program writes lines of JSON to SRPO_REPORT_FD:

    {"say": TEXT}                                          a message for the user
    {"phase": NAME, "done": N, "total": N, "note": TEXT}   progress; done, total and note may be absent
    {"result": {...}}                                      the result, once
    {"error": {"kind", "message", "place", "hint"}}        the reason for a failure, once

SRPO_LIFELINE_FD is a pipe that srpo holds open. Its end means that srpo has ended, and the program must end, too.
Without these descriptors, when a person runs the program, reports go to stderr.
"""

import fcntl
import json
import os
import signal
import sys
import threading
import time

_F_SETSIG = 10  # Linux; fcntl has the name since Python 3.13


class Refused(Exception):
    """An error that is reported to the user without a traceback.

    kind is one of srpo's error kinds: invalid, not found, unsupported, mismatch, exhausted, unavailable, corrupt,
    canceled, internal. hint says what the user can do. place is the file or flag that is wrong.
    """

    def __init__(self, kind: str, message: str, hint: str, place: str = ""):
        super().__init__(message)
        self.kind, self.message, self.hint, self.place = kind, message, hint, place


class Reports:
    """Writes reports to srpo, or to stderr. Its methods may be called from several threads."""

    def __init__(self):
        self._lock = threading.Lock()
        self._last = 0.0
        fd = os.environ.pop("SRPO_REPORT_FD", "")
        self._out = None
        if fd.isdigit():
            os.set_inheritable(int(fd), False)
            self._out = os.fdopen(int(fd), "w", buffering=1, encoding="utf-8")

    def _write(self, line: dict) -> None:
        with self._lock:
            if self._out is not None:
                self._out.write(json.dumps(line) + "\n")
                self._out.flush()
            else:
                print(" ".join(f"{k}: {v}" for k, v in line.items()), file=sys.stderr, flush=True)

    def message(self, text: str) -> None:
        """Sends a message to the user."""
        self._write({"say": text})

    def phase(self, name: str, done: float | None = None, total: float | None = None, note: str = "") -> None:
        """Reports progress. A report less than 0.1 s after the last one is dropped unless it begins or ends a phase."""
        now = time.monotonic()
        if done is not None and done != total and now - self._last < 0.1:
            return
        self._last = now
        line: dict = {"phase": name}
        if total is not None:
            line.update(done=done or 0, total=total)
        if note:
            line["note"] = note
        self._write(line)

    def result(self, value: dict) -> None:
        """Reports the result."""
        self._write({"result": value})

    def error(self, e: Refused) -> None:
        """Reports why there is no result."""
        self._write({"error": {"kind": e.kind, "message": e.message, "place": e.place, "hint": e.hint}})


def watch_lifeline() -> None:
    """Arranges that this process and its children are killed when srpo ends.

    The kernel sends the signal, so it works also while a library holds the interpreter lock. If the kernel does not
    support that, a thread does it.
    """
    text = os.environ.pop("SRPO_LIFELINE_FD", "")
    if not text.isdigit():
        return
    fd = int(text)
    os.set_inheritable(fd, False)
    try:
        # At the end of the pipe the kernel signals the whole process group.
        own = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        fcntl.fcntl(own, fcntl.F_SETOWN, -os.getpid() if os.getpgid(0) == os.getpid() else os.getpid())
        fcntl.fcntl(own, _F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(own, fcntl.F_SETFL, fcntl.fcntl(own, fcntl.F_GETFL) | os.O_ASYNC)
    except OSError:
        pass  # no /proc: only the thread below

    def wait() -> None:
        while os.read(fd, 1):
            pass
        if os.getpgid(0) == os.getpid():
            os.killpg(os.getpid(), signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=wait, name="lifeline", daemon=True).start()


def _stop(*_) -> None:
    raise Refused("canceled", "stopped", "run the same command to start again")


def run(work) -> int:
    """Calls work(reports), reports what it returns, and returns the exit code: 0, or 1 after an error.

    Errors other than Refused, exhausted memory and a full disk are raised. srpo shows the end of their traceback.
    """
    watch_lifeline()
    reports = Reports()
    signal.signal(signal.SIGTERM, _stop)
    try:
        result = work(reports)
    except Refused as e:
        reports.error(e)
        return 1
    except MemoryError:
        reports.error(
            Refused("exhausted", "there is not enough memory", "close other programs, or use a larger machine")
        )
        return 1
    except OSError as e:
        if e.errno not in (28, 122):  # ENOSPC, EDQUOT
            raise
        reports.error(Refused("exhausted", f"the disk is full: {e}", "free some space, or set --out to another disk"))
        return 1
    reports.result(result)
    return 0
