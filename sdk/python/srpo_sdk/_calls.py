"""Calls in progress: which there are, when each last made headway, whether the host still wants it; and the threads on
which an author's code runs.
"""

import queue
import threading
import time
from concurrent.futures import Future
from typing import Callable, Dict, List, Tuple

from .errors import Error

_local = threading.local()


class Call:
    """One call from the host, from its arrival to its reply."""

    def __init__(self, name: str):
        self.name = name
        self.progressed = time.monotonic()
        self.cancelled = False

    def tick(self) -> None:
        """Notes headway. Raises `Error` ("canceled") once the host has given the call up or its deadline has passed."""
        self.progressed = time.monotonic()
        if self.cancelled:
            raise Error("canceled", f"{self.name} was cancelled")


def heartbeat() -> None:
    """Notes headway in a long computation, for the host's watch on hung plugins, and raises `Error` ("canceled") when
    the host no longer wants the result.

    Call it between the steps of a loop that runs for seconds. Outside of a call it does nothing.
    """
    call = getattr(_local, "call", None)
    if call is not None:
        call.tick()


class Calls:
    """The calls in progress, for Health."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: Dict[int, Call] = {}

    def enter(self, name: str) -> Call:
        call = Call(name)
        with self._lock:
            self._running[id(call)] = call
        return call

    def leave(self, call: Call) -> None:
        with self._lock:
            self._running.pop(id(call), None)

    def busy(self) -> Tuple[List[str], int]:
        """Returns the names of the calls in progress, and the milliseconds since any of them last made headway (0 when
        idle).
        """
        with self._lock:
            calls = list(self._running.values())
        if not calls:
            return [], 0
        since = time.monotonic() - max(c.progressed for c in calls)
        return [c.name for c in calls], max(1, int(since * 1000))


class Thread:
    """A queue of an author's calls, run one at a time and always on the same thread.

    An OpenGL context belongs to the thread that made it, so a lane never moves between gRPC's own threads.
    """

    def __init__(self) -> None:
        self._jobs: "queue.SimpleQueue" = queue.SimpleQueue()

    def run(self, call: Call, work: Callable):
        """Runs work() on the thread, waits for it and returns its result or raises its exception. A call that was
        cancelled while it waited is not begun.
        """
        done: Future = Future()
        self._jobs.put((call, work, done))
        return done.result()

    def loop(self) -> None:
        """Serves the queue until `stop`; called on the thread itself."""
        while True:
            job = self._jobs.get()
            if job is None:
                return
            call, work, done = job
            _local.call = call
            try:
                call.tick()
                done.set_result(work())
            except BaseException as e:  # SystemExit too: no call may end the thread
                done.set_exception(e)
            finally:
                _local.call = None
            del job, call, work, done

    def stop(self) -> None:
        """Ends `loop` after the calls that are queued."""
        self._jobs.put(None)

    def start(self, name: str) -> "Thread":
        """Runs `loop` on a new daemon thread."""
        threading.Thread(target=self.loop, name=name, daemon=True).start()
        return self
