"""Running calls: which there are, when each last made progress, whether the host still wants the result; and the
threads on which the author's code runs.
"""

from __future__ import annotations

import queue
import threading
import time
import warnings
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from .errors import Error

T = TypeVar("T")

_local = threading.local()


class Call:
    """One call from the host, from the request to the reply."""

    def __init__(self, name: str):
        self.name = name
        self.progressed = time.monotonic()
        self.cancelled = False

    def report_progress(self) -> None:
        """Notes progress. Raises `Error` ("canceled") once the host has cancelled the call or its deadline passed."""
        self.progressed = time.monotonic()
        if self.cancelled:
            raise Error("canceled", f"{self.name} was cancelled")


def report_progress() -> None:
    """Tells the host that the running call makes progress. Call it in every loop that runs for seconds.

    An encoder's deadline (`[host] encode_timeout_s`) starts again with each report. Outside of a call it does nothing.

    Raises:
        Error: "canceled" when the host no longer wants the result. Let it pass.
    """
    call: Call | None = getattr(_local, "call", None)
    if call is not None:
        call.report_progress()


def heartbeat() -> None:
    """Deprecated name of `report_progress`."""
    warnings.warn("srpo_sdk.heartbeat is now srpo_sdk.report_progress", DeprecationWarning, stacklevel=2)
    report_progress()


class Calls:
    """The running calls, for Health."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: dict[int, Call] = {}

    def enter(self, name: str) -> Call:
        call = Call(name)
        with self._lock:
            self._running[id(call)] = call
        return call

    def leave(self, call: Call) -> None:
        with self._lock:
            self._running.pop(id(call), None)

    def busy(self) -> tuple[list[str], int]:
        """Returns the names of the running calls, and the milliseconds since any of them made progress (0: idle)."""
        with self._lock:
            calls = list(self._running.values())
        if not calls:
            return [], 0
        since = time.monotonic() - max(c.progressed for c in calls)
        return [c.name for c in calls], max(1, int(since * 1000))


class Thread:
    """Runs the author's code one call at a time, always on the same thread.

    An OpenGL context belongs to the thread that made it, so a lane must not move between gRPC's threads.
    """

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[tuple[Call, Callable[[], Any], Future[Any]] | None] = queue.SimpleQueue()

    def run(self, call: Call, work: Callable[[], T]) -> T:
        """Runs work() on the thread, waits, and returns its result or raises its exception.

        A call that was cancelled while it waited in the queue is not started.
        """
        done: Future[T] = Future()
        self._jobs.put((call, work, done))
        return done.result()

    def loop(self) -> None:
        """Runs the queued calls until `stop`. It is called on the thread itself."""
        while True:
            job = self._jobs.get()
            if job is None:
                return
            call, work, done = job
            _local.call = call
            try:
                call.report_progress()
                done.set_result(work())
            except BaseException as e:  # SystemExit too: no call may end the thread
                done.set_exception(e)
            finally:
                _local.call = None
            del job, call, work, done

    def stop(self) -> None:
        """Ends `loop` after the calls that are queued."""
        self._jobs.put(None)

    def start(self, name: str) -> Thread:
        """Runs `loop` on a new daemon thread and returns self."""
        threading.Thread(target=self.loop, name=name, daemon=True).start()
        return self
