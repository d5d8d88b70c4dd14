"""How the programs of this folder speak with srpo, which runs them: reports, one error, and an end with srpo's.

srpo gives two descriptors. What is written on SRPO_REPORT_FD are lines of JSON:

    {"say": TEXT}                                   a sentence for the user
    {"phase": NAME, "done": N, "total": N, "note": TEXT}   where the work stands; done and total may be absent
    {"result": {...}}                               what came out, once
    {"error": {"kind", "message", "place", "hint"}}       why nothing came out, once

SRPO_LIFELINE_FD is read to its end, which is the end of srpo. Run by hand, without descriptors, reports go to stderr.
"""

import fcntl
import json
import os
import signal
import sys
import threading
import time

_F_SETSIG = 10  # Linux; the fcntl module names it only from Python 3.13 on


class Refused(Exception):
    """A failure that the user can do something about.

    kind is one of srpo's: invalid, not found, unsupported, mismatch, exhausted, unavailable, corrupt, canceled,
    internal. hint is one remedy.
    """

    def __init__(self, kind: str, message: str, hint: str, place: str = ""):
        super().__init__(message)
        self.kind, self.message, self.hint, self.place = kind, message, hint, place


class Reports:
    """Writes reports; may be used from several threads."""

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

    def say(self, text: str) -> None:
        """Tells the user a sentence."""
        self._write({"say": text})

    def phase(self, name: str, done: float | None = None, total: float | None = None, note: str = "") -> None:
        """Says where the work stands; a report within 0.1 s of the last is left out unless it begins a phase."""
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
        """Says what came out."""
        self._write({"result": value})

    def error(self, e: Refused) -> None:
        """Says why nothing came out."""
        self._write({"error": {"kind": e.kind, "message": e.message, "place": e.place, "hint": e.hint}})


def hold_lifeline() -> None:
    """Ends this process and its children as soon as srpo is gone, also when a library holds the interpreter lock."""
    text = os.environ.pop("SRPO_LIFELINE_FD", "")
    if not text.isdigit():
        return
    fd = int(text)
    os.set_inheritable(fd, False)
    try:
        # The kernel signals the whole group at the end of file, which needs no thread of ours.
        own = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        fcntl.fcntl(own, fcntl.F_SETOWN, -os.getpid() if os.getpgid(0) == os.getpid() else os.getpid())
        fcntl.fcntl(own, _F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(own, fcntl.F_SETFL, fcntl.fcntl(own, fcntl.F_GETFL) | os.O_ASYNC)
    except OSError:
        pass  # no /proc: the thread does it alone

    def wait() -> None:
        while os.read(fd, 1):
            pass
        if os.getpgid(0) == os.getpid():
            os.killpg(os.getpid(), signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=wait, name="lifeline", daemon=True).start()


def _stop(*_) -> None:
    raise Refused("canceled", "stopped", "the same command starts again")


def run(work) -> int:
    """Calls work(reports) and returns the exit code: 0, or 1 after an error was reported.

    An exception that is no Refused leaves its traceback on stderr, whose end srpo shows.
    """
    hold_lifeline()
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
        if e.errno not in (28, 122):  # no space left; quota
            raise
        reports.error(Refused("exhausted", f"the disk is full: {e}", "make room, or give --out on another disk"))
        return 1
    reports.result(result)
    return 0
