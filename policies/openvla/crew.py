"""Several processes that share a policy's work, one a device, each with the whole network.

Rank 0 is the plugin's own process: the host talks to it alone, and it keeps what was recorded and writes checkpoints.
It starts the others and tells them, over a pipe, which of the policy's methods to run on what; it runs the same method
itself. So an update is written once, for any number of processes. Tensors that all need go through torch.distributed:
NCCL between GPUs, gloo on a CPU.

To the host they are one thing: in one process group, started, killed and restarted together. A process that ends, or
fails in the middle of a collective operation, in which the others would wait for it for ever, ends all of them, and the
host goes on from the last commit.
"""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from multiprocessing import connection
from typing import Any

import srpo_sdk as srpo
import torch
from torch import distributed

ENDED = 70  # exit status of a process that cannot go on without another
WAIT = timedelta(minutes=30)  # for the others in a collective operation


@dataclasses.dataclass(frozen=True)
class Hand(srpo.PolicyConfig):
    """The configuration of a process that rank 0 started; rendezvous is a file that all of them see."""


def end(why: str) -> None:
    """Ends this process at once; its last words are what the host shows."""
    print(why, file=sys.stderr, flush=True)
    os._exit(ENDED)


@dataclasses.dataclass(frozen=True)
class Idle:
    """A part given to a process so that all have as many; what comes of it does not count."""

    part: Any


class Group:
    """The processes that learn together, and this one's place among them. Alone, there is nothing to do."""

    def __init__(self, rank: int = 0, size: int = 1, meeting: str = ""):
        self.rank, self.size, self.meeting = rank, size, meeting

    def join(self, device: torch.device) -> None:
        """Waits until all have come."""
        if self.size == 1:
            return
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # they are on one machine
        if device.type == "cuda":
            torch.cuda.set_device(device)
        store = distributed.FileStore(self.meeting, self.size)
        distributed.init_process_group(
            "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
            store=store,
            rank=self.rank,
            world_size=self.size,
            timeout=WAIT,
        )

    def leave(self) -> None:
        if self.size > 1 and distributed.is_initialized():
            distributed.destroy_process_group()

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Around collective operations: whoever fails within ends, since the others wait for it."""
        try:
            yield
        except BaseException as e:
            if self.size > 1:
                end(f"process {self.rank} of {self.size} failed while the others waited: {type(e).__name__}: {e}")
            raise

    def any(self, flags: list[bool], device: torch.device) -> list[bool]:
        """Of each flag, whether it is set anywhere."""
        if self.size == 1:
            return flags
        found = torch.tensor(flags, dtype=torch.uint8, device=device)
        distributed.all_reduce(found, distributed.ReduceOp.MAX)
        return found.bool().tolist()

    def total(self, value: torch.Tensor) -> torch.Tensor:
        """The sum over all, for all."""
        if self.size > 1:
            distributed.all_reduce(value)
        return value

    def reduce(self, tensor: torch.Tensor, to: int) -> None:
        """Makes the tensor, of the process `to`, the sum over all; others' are worth nothing then."""
        if self.size > 1:
            distributed.reduce(tensor, to)

    def spread(self, tensors: Sequence[torch.Tensor], owners: Sequence[int]) -> None:
        """Gives everybody the tensors of their owners."""
        if self.size > 1:
            waiting = [distributed.broadcast(t, owner, async_op=True) for t, owner in zip(tensors, owners)]
            for w in waiting:
                w.wait()

    def bring(self, tensor: torch.Tensor, owner: int) -> None:
        """Gives rank 0 the tensor of its owner."""
        if self.rank == owner != 0:
            distributed.send(tensor, 0)
        elif self.rank == 0 != owner:
            distributed.recv(tensor, owner)


class Crew:
    """Rank 0's hold on the others; without others it runs everything itself.

    Args:
        policy: rank 0's own.
    """

    def __init__(self, policy: Any):
        self.policy = policy
        self.processes: list[Any] = []
        self.pipes: list[connection.Connection] = []
        self.folder = ""
        self.lockstep: tuple[str, ...] = ()  # methods whose parts `share` has to make as many everywhere
        self._closing = False

    @property
    def size(self) -> int:
        return 1 + len(self.processes)

    def start(self, size: int) -> str:
        """Starts size - 1 processes with policies like one's own, and returns where all meet."""
        config = self.policy.config
        self.folder = tempfile.mkdtemp(dir=config.scratch or None)
        meeting = os.path.join(self.folder, "meeting")
        own = {f.name: getattr(config, f.name) for f in dataclasses.fields(srpo.PolicyConfig)}
        context = multiprocessing.get_context("spawn")  # CUDA does not survive a fork
        for rank in range(1, size):
            hand = Hand(**{**own, "rank": rank, "world_size": size, "rendezvous": meeting})
            here, there = context.Pipe()
            process = context.Process(target=_follow, args=(there, type(self.policy), hand), daemon=True)
            process.start()
            there.close()
            self.processes.append(process)
            self.pipes.append(here)
        threading.Thread(target=self._watch, name="crew", daemon=True).start()
        return meeting

    def ready(self) -> None:
        """Waits until the others have loaded their networks; raises what keeps one from it."""
        self._replies([])

    def all(self, method: str, *args: Any) -> list[Any]:
        """Runs a method of the policy everywhere, with the same arguments; results by rank."""
        return self._run(method, [args] * self.size)

    def share(self, method: str, parts: Sequence[Any], *args: Any, tick: Callable[[int], None] | None = None) -> list:
        """Runs method(some of the parts, *args) everywhere, each part somewhere; results by rank. Rank r has every
        size-th part from the r-th on; in lockstep, those with one less than others get an `Idle` one more.

        Args:
            tick: is called here with n, after every part of one's own: about as many parts are done everywhere.
        """
        fill = [Idle(parts[0])] * (-len(parts) % self.size) if method in self.lockstep else []
        given = [([*parts, *fill][rank :: self.size], *args) for rank in range(self.size)]
        if tick is not None:
            given[0] = (*given[0], lambda n: tick(min(n * self.size, len(parts))))
        return self._run(method, given)

    def close(self) -> None:
        self._closing = True
        for pipe in self.pipes:
            pipe.close()
        for process in self.processes:
            process.kill()
            process.join()
        self.pipes, self.processes = [], []
        if self.folder:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _run(self, method: str, given: list[tuple]) -> list[Any]:
        problems: list[BaseException] = []
        own = None
        try:
            for pipe, args in zip(self.pipes, given[1:]):
                pipe.send((method, args))
        except OSError as e:
            raise self._gone() from e
        try:
            own = getattr(self.policy, method)(*given[0])
        except BaseException as e:
            problems.append(e)
        # Whatever happened here, the others finish what they were told, so that their replies are to the next call.
        return [own, *self._replies(problems)]

    def _replies(self, problems: list[BaseException]) -> list[Any]:
        results = []
        for rank, pipe in enumerate(self.pipes, 1):
            try:
                problem, result = pipe.recv()
            except (EOFError, OSError) as e:
                raise self._gone() from e
            results.append(result)
            if problem:
                kind, message, place, hint, detail = problem
                problems.append(srpo.Error(kind, message, place=place, hint=hint, detail=detail).at(f"process {rank}"))
        if problems:
            raise problems[0]
        return results

    def _gone(self) -> srpo.Error:
        """What there is to say when a pipe is broken; the thread that watches ends this process before it is heard."""
        time.sleep(10)
        return srpo.Error("unavailable", "a process of the policy has ended", place=f"policy {self.policy.name}")

    def _watch(self) -> None:
        watched = {p.sentinel: (rank, p) for rank, p in enumerate(self.processes, 1)}
        ended = connection.wait(list(watched))
        if self._closing:
            return
        rank, process = watched[ended[0]]
        process.join()
        code = process.exitcode
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
        more = ": the machine may be out of memory" if code == -signal.SIGKILL else ""
        end(f"policy {self.policy.name}: process {rank} of {len(watched) + 1} {how}{more}; the others end with it")


def _follow(pipe: connection.Connection, cls: type, config: Hand) -> None:
    """The life of a process other than rank 0's."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def watch() -> None:
        connection.wait([parent.sentinel])
        os._exit(ENDED)

    threading.Thread(target=watch, name="parent", daemon=True).start()
    try:
        policy = cls(config)
    except BaseException as e:
        pipe.send((_told(e), None))
        pipe.poll(None)  # rank 0 says what is wrong, and ends us
        return
    pipe.send((None, None))
    while True:
        try:
            method, args = pipe.recv()
        except EOFError:
            return
        try:
            reply = None, policy.obey(method, args)
        except BaseException as e:
            reply = _told(e), None
        pipe.send(reply)


def _told(e: BaseException) -> tuple[str, ...]:
    if isinstance(e, srpo.Error):
        return e.kind, e.message, e.place, e.hint, e.detail
    import traceback

    lines = "".join(traceback.format_exception(e)).rstrip()
    print(lines, file=sys.stderr, flush=True)
    return "internal", f"{type(e).__name__}: {e}", "", "a fault in the plugin; its log has the whole traceback", lines
