"""Prepares a plugin's process: its standard streams, its heartbeat, and its end when the host ends.

The package imports this module first. It acts only in a process that a host started (the magic cookie is in the
environment), so a test or a notebook that imports the package keeps its stdout.
"""

from __future__ import annotations

import fcntl
import os
import signal
import sys
import threading
import time

COOKIE_KEY = "SRPO_PLUGIN"
COOKIE_VALUE = "srpo.v1"
LIFELINE_ENV = "SRPO_LIFELINE_FD"
HEARTBEAT_ENV = "SRPO_HEARTBEAT"

_F_SETSIG = 10  # Linux; the fcntl module names it only from Python 3.13 on

#: A copy of the real stdout, which is reserved for the handshake; None: no host started this process.
handshake_fd: int | None = None


def started_by_host() -> bool:
    """Whether a host started this very process. A worker of the plugin inherits its environment, but is not meant."""
    return handshake_fd is not None


def _redirect_streams() -> int:
    """Points fd 1 at stderr and fd 0 at /dev/null, and returns a copy of the real stdout.

    Some packages print at import and some ask on stdin. A single byte on the real stdout would break the handshake.
    """
    real = fcntl.fcntl(1, fcntl.F_DUPFD_CLOEXEC, 10)
    os.dup2(2, 1)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(line_buffering=True)
    return real


def _kill_group() -> None:
    """Kills the process group if this process leads it, else this process alone."""
    if os.getpgid(0) == os.getpid():
        os.killpg(os.getpgid(0), signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


def _watch_lifeline(fd: int) -> None:
    """Kills this process and its children at the end of file of the lifeline, which means that the host is gone."""
    os.set_inheritable(fd, False)
    try:
        # The kernel signals the group itself, which needs no Python thread: a simulator that holds the GIL dies too.
        # The file is opened again so that the signal's owner belongs to this process only, whoever else inherited the
        # pipe. Readable data raises the signal as well, so the host never writes to the lifeline.
        own = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        owner = -os.getpid() if os.getpgid(0) == os.getpid() else os.getpid()
        fcntl.fcntl(own, fcntl.F_SETOWN, owner)
        fcntl.fcntl(own, _F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(own, fcntl.F_SETFL, fcntl.fcntl(own, fcntl.F_GETFL) | os.O_ASYNC)
    except OSError:
        pass  # no /proc, or not Linux: the thread below must do

    def wait() -> None:
        while True:
            try:
                if os.read(fd, 1) == b"":
                    break
            except InterruptedError:
                continue
            except OSError:
                break
        _kill_group()

    threading.Thread(target=wait, name="srpo-lifeline", daemon=True).start()


def _send_heartbeats(fd: int, seconds: float) -> None:
    """Writes a byte into the host's pipe at this interval, from a thread of its own.

    It lets the host distinguish a call that takes long from a process that is stopped or whose interpreter lock is
    held by code that does not return.
    """
    try:
        os.set_inheritable(fd, False)
        os.set_blocking(fd, False)  # a host that does not read must not block the thread
    except OSError:
        return  # the descriptor was not inherited

    def beat() -> None:
        while True:
            try:
                os.write(fd, b"\1")
            except (BlockingIOError, InterruptedError):
                pass
            except OSError:
                return  # the host has closed its end
            time.sleep(seconds)

    threading.Thread(target=beat, name="srpo-heartbeat", daemon=True).start()


def prepare() -> None:
    """Sets the process up once. It does nothing in a process that no host started."""
    global handshake_fd
    if handshake_fd is not None or os.environ.get(COOKIE_KEY) != COOKIE_VALUE:
        return
    # A worker that the plugin starts later must not take itself for the plugin.
    del os.environ[COOKIE_KEY]
    # Workers that the plugin forks do not use gRPC, whose fork handlers crash some of them.
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    handshake_fd = _redirect_streams()
    lifeline = os.environ.pop(LIFELINE_ENV, "")
    if lifeline.isdigit():
        _watch_lifeline(int(lifeline))
    fd, _, milliseconds = os.environ.pop(HEARTBEAT_ENV, "").partition(",")
    if fd.isdigit() and milliseconds.isdigit():
        _send_heartbeats(int(fd), int(milliseconds) / 1000)


prepare()
