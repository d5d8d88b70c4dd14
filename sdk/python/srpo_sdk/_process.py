"""What must be true of a plugin's process before anything else runs: its standard streams, and its end with the host's.

Imported first by the package. It acts only in a process that a host started (the magic cookie is in the environment),
so that a test or a notebook that
imports the package keeps its own stdout.
"""

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

# Descriptor of the real stdout, which belongs to the handshake; None: the process was not started by a host.
handshake_fd: "int | None" = None


def started_by_host() -> bool:
    """Whether a host started this very process (and not a worker of a plugin, which inherits the plugin's
    environment).
    """
    return handshake_fd is not None


def _take_streams() -> int:
    """Keeps the real stdout for the handshake, points fd 1 at stderr and fd 0 at /dev/null.

    Packages print at import and some ask on stdin; a byte of theirs on the real stdout would break the handshake.
    """
    real = fcntl.fcntl(1, fcntl.F_DUPFD_CLOEXEC, 10)
    os.dup2(2, 1)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    if sys.stdout is not None and hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(line_buffering=True)
    return real


def _die() -> None:
    """Kills the process group when this process leads it, else this process alone."""
    if os.getpgid(0) == os.getpid():
        os.killpg(os.getpgid(0), signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


def _hold_lifeline(fd: int) -> None:
    """Ends this process, and its children, at the end of file of the lifeline: the host is gone."""
    os.set_inheritable(fd, False)
    try:
        # The kernel itself signals the group, which needs no thread of ours: a simulator that holds the GIL dies too.
        # The open file is made anew so that the
        # owner is this plugin's alone, whoever else inherited the pipe. Readiness counts as a signal too, so the host
        # never writes to the lifeline.
        own = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        owner = -os.getpid() if os.getpgid(0) == os.getpid() else os.getpid()
        fcntl.fcntl(own, fcntl.F_SETOWN, owner)
        fcntl.fcntl(own, _F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(own, fcntl.F_SETFL, fcntl.fcntl(own, fcntl.F_GETFL) | os.O_ASYNC)
    except OSError:
        pass  # no /proc, or not Linux: the thread below does it alone

    def wait() -> None:
        while True:
            try:
                if os.read(fd, 1) == b"":
                    break
            except InterruptedError:
                continue
            except OSError:
                break
        _die()

    threading.Thread(target=wait, name="srpo-lifeline", daemon=True).start()


def _beat(fd: int, seconds: float) -> None:
    """Writes a byte into the host's pipe now and then, from a thread of its own: the host then knows a call that takes
    long from a process that is stopped, or whose interpreter is held by something that does not come back.
    """
    try:
        os.set_inheritable(fd, False)
        os.set_blocking(fd, False)  # a host that does not read must not hold the thread up
    except OSError:
        return  # it was not handed down

    def beat() -> None:
        while True:
            try:
                os.write(fd, b"\1")
            except (BlockingIOError, InterruptedError):
                pass
            except OSError:
                return  # nobody listens any more
            time.sleep(seconds)

    threading.Thread(target=beat, name="srpo-heartbeat", daemon=True).start()


def prepare() -> None:
    """Sets the process up once; does nothing outside of a plugin that a host started."""
    global handshake_fd
    if handshake_fd is not None or os.environ.get(COOKIE_KEY) != COOKIE_VALUE:
        return
    # Workers that the plugin starts later must not take themselves for the plugin.
    del os.environ[COOKIE_KEY]
    # Workers that the plugin forks have no use for gRPC, and its own handlers of a fork crash some of them.
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    handshake_fd = _take_streams()
    lifeline = os.environ.pop(LIFELINE_ENV, "")
    if lifeline.isdigit():
        _hold_lifeline(int(lifeline))
    fd, _, milliseconds = os.environ.pop(HEARTBEAT_ENV, "").partition(",")
    if fd.isdigit() and milliseconds.isdigit():
        _beat(int(fd), int(milliseconds) / 1000)


prepare()
