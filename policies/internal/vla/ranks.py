"""Several processes that share a policy's work, one a device; each has the whole network, or a part (`sharding`).

The host starts them, says which rank of how many each is, and configures them at the same time. It then calls rank 0
alone, which keeps what was recorded and writes checkpoints. Rank 0 tells the others, over a socket in the folder where
they meet, which of the policy's methods to run on what; it runs the same method itself. So an update is written once,
for any number of processes. Tensors that all need go through torch.distributed: NCCL between GPUs, gloo on a CPU.

To the host they are one thing, started, ended and started again together. A process that fails in the middle of a
collective operation, in which the others would wait for it for ever, ends, the host ends the others, and the run goes
on from the last commit.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
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
_SOCKET, _STORE = "orders", "store"  # in the folder where they meet


def end(why: str) -> None:
    """Ends this process at once; its last words are what the host shows."""
    print(why, file=sys.stderr, flush=True)
    os._exit(ENDED)


@dataclasses.dataclass(frozen=True)
class Idle:
    """A part given to a process so that all have as many; what comes of it does not count."""

    part: Any


class Group:
    """The processes that learn together, and this one's place among them. Alone, there is nothing to do.

    Args:
        meeting: the folder where they meet.
    """

    def __init__(self, rank: int = 0, size: int = 1, meeting: str = ""):
        self.rank, self.size, self.meeting = rank, size, meeting

    def join(self, device: torch.device) -> None:
        """Waits until all have come."""
        if self.size == 1:
            return
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # they are on one machine
        if device.type == "cuda":
            torch.cuda.set_device(device)
        store = distributed.FileStore(os.path.join(self.meeting, _STORE), self.size)
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
                if self.rank == 0:
                    time.sleep(2)  # where another process is at fault, the host says so and ends this one meanwhile
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
        self.pipes: list[connection.Connection] = []
        self.lockstep: tuple[str, ...] = ()  # methods whose parts `share` has to make as many everywhere

    @property
    def size(self) -> int:
        return 1 + len(self.pipes)

    def meet(self, group: Group) -> None:
        """Waits for the others, who come when they have loaded their networks. One that fails never does: the host,
        which hears why, then ends all of them.
        """
        with connection.Listener(os.path.join(group.meeting, _SOCKET), "AF_UNIX", group.size) as door:
            came = {}
            for _ in range(1, group.size):
                pipe = door.accept()
                came[pipe.recv()] = pipe
        self.pipes = [came[rank] for rank in range(1, group.size)]

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
        for pipe in self.pipes:
            pipe.close()
        self.pipes = []

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
        """What there is to say when a pipe is broken; the host, which knows more, ends this process before."""
        time.sleep(10)
        return srpo.Error("unavailable", "a process of the policy has ended", place=f"policy {self.policy.name}")


def follow(policy: Any, group: Group) -> None:
    """The work of a process other than rank 0: a thread of its own does what rank 0 says until that ends."""
    pipe = _knock(os.path.join(group.meeting, _SOCKET))
    pipe.send(group.rank)

    def work() -> None:
        while True:
            try:
                method, args = pipe.recv()
            except (EOFError, OSError):
                return
            try:
                reply = None, policy.obey(method, args)
            except BaseException as e:
                reply = _told(e), None
            pipe.send(reply)

    threading.Thread(target=work, name="orders", daemon=True).start()


def _knock(path: str) -> connection.Connection:
    """Rank 0 may still be loading its network; the host bounds the time."""
    while True:
        try:
            return connection.Client(path, "AF_UNIX")
        except (FileNotFoundError, ConnectionRefusedError):
            time.sleep(0.05)


def _told(e: BaseException) -> tuple[str, ...]:
    if isinstance(e, srpo.Error):
        return e.kind, e.message, e.place, e.hint, e.detail
    import traceback

    lines = "".join(traceback.format_exception(e)).rstrip()
    print(lines, file=sys.stderr, flush=True)
    return "internal", f"{type(e).__name__}: {e}", "", "a fault in the plugin; its log has the whole traceback", lines
