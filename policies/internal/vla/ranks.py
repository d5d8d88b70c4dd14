"""Several processes that share the work of one policy, one process per device.

The host starts the processes, gives each its rank, and configures all of them at the same time. Afterwards it calls
rank 0 only, which keeps the recorded chunks and writes checkpoints. Rank 0 sends commands to the other ranks over a
socket in a private folder (the rendezvous): which method of the policy to run, and on which micro-batches. It runs the
same method itself, so that an update is written once for any number of processes. Tensors that all ranks need go
through torch.distributed: NCCL between GPUs, gloo on a CPU. Each process has the whole network, or a shard of it (see
`vla.sharding`).

The host treats the processes as one unit: it starts, stops and restarts them together. A process that fails within a
collective operation, where the others would wait for it without end, exits. The host then stops the others, and the run
continues from the last checkpoint.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from multiprocessing import connection
from typing import Any

import srpo_sdk as srpo
import torch
from torch import distributed

EXIT_STATUS = 70  # of a process that fails while other ranks wait for it
COLLECTIVE_TIMEOUT = timedelta(minutes=30)
_SOCKET, _STORE = "orders", "store"  # files in the rendezvous folder


def exit_process(message: str) -> None:
    """Prints the message, which the host shows to the user, and ends this process at once."""
    print(message, file=sys.stderr, flush=True)
    os._exit(EXIT_STATUS)


@dataclasses.dataclass(frozen=True)
class Padding:
    """A part that a rank gets only so that all ranks run the same number of passes. Its result is not counted."""

    part: Any


class ProcessGroup:
    """This process's rank, and collective operations over all ranks. With one process they do nothing.

    Args:
        rank: 0 to size - 1.
        size: number of processes.
        rendezvous: the private folder where the processes meet.
    """

    def __init__(self, rank: int = 0, size: int = 1, rendezvous: str = ""):
        self.rank, self.size, self.rendezvous = rank, size, rendezvous

    def join(self, device: torch.device) -> None:
        """Initialises torch.distributed. It returns when all ranks have called it."""
        if self.size == 1:
            return
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # all ranks are on one machine
        if device.type == "cuda":
            torch.cuda.set_device(device)
        store = distributed.FileStore(os.path.join(self.rendezvous, _STORE), self.size)
        distributed.init_process_group(
            "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
            store=store,
            rank=self.rank,
            world_size=self.size,
            timeout=COLLECTIVE_TIMEOUT,
        )

    def leave(self) -> None:
        if self.size > 1 and distributed.is_initialized():
            distributed.destroy_process_group()

    @contextlib.contextmanager
    def collective(self) -> Iterator[None]:
        """Wraps collective operations. An exception within ends the process, since the other ranks wait for it."""
        try:
            yield
        except BaseException as e:
            if self.size > 1:
                if self.rank == 0:
                    time.sleep(2)  # if another rank is the cause, the host reports that rank and ends this one first
                message = f"process {self.rank} of {self.size} failed while the others waited"
                exit_process(f"{message}: {type(e).__name__}: {e}")
            raise

    def any(self, flags: list[bool], device: torch.device) -> list[bool]:
        """Returns, for each flag, whether it is set on any rank."""
        if self.size == 1:
            return flags
        found = torch.tensor(flags, dtype=torch.uint8, device=device)
        distributed.all_reduce(found, distributed.ReduceOp.MAX)
        return found.bool().tolist()

    def all_reduce(self, value: torch.Tensor) -> torch.Tensor:
        """Replaces the tensor by its sum over all ranks, on every rank, and returns it."""
        if self.size > 1:
            distributed.all_reduce(value)
        return value

    def reduce(self, tensor: torch.Tensor, to: int) -> None:
        """Replaces the tensor of rank `to` by the sum over all ranks. On other ranks its content becomes undefined."""
        if self.size > 1:
            distributed.reduce(tensor, to)

    def broadcast(self, tensors: Sequence[torch.Tensor], owners: Sequence[int]) -> None:
        """Copies each tensor from the rank that owns it to all others."""
        if self.size > 1:
            pending = [distributed.broadcast(t, owner, async_op=True) for t, owner in zip(tensors, owners)]
            for p in pending:
                p.wait()

    def send_to_rank_zero(self, tensor: torch.Tensor, owner: int) -> None:
        """Copies the tensor of rank `owner` into that of rank 0. Both ranks call it; on others it does nothing."""
        if self.rank == owner != 0:
            distributed.send(tensor, 0)
        elif self.rank == 0 != owner:
            distributed.recv(tensor, owner)


class RankGroup:
    """Rank 0's connection to the other ranks. With one process it runs everything itself.

    Args:
        policy: the policy of rank 0, whose methods are called by name.
    """

    def __init__(self, policy: Any):
        self.policy = policy
        self.pipes: list[connection.Connection] = []
        self.lockstep: tuple[str, ...] = ()  # methods for which `call_split` gives every rank the same number of parts

    @property
    def size(self) -> int:
        return 1 + len(self.pipes)

    def accept(self, processes: ProcessGroup) -> None:
        """Waits until all other ranks have connected, which they do after they have loaded their networks. If one fails
        before that, the host ends all of them.
        """
        address = os.path.join(processes.rendezvous, _SOCKET)
        with connection.Listener(address, "AF_UNIX", processes.size) as listener:
            connected = {}
            for _ in range(1, processes.size):
                pipe = listener.accept()
                connected[pipe.recv()] = pipe
        self.pipes = [connected[rank] for rank in range(1, processes.size)]

    def call_all(self, method: str, *args: Any) -> list[Any]:
        """Runs a method of the policy on every rank with the same arguments. Returns the results by rank.

        Raises:
            srpo.Error: the first error of any rank, after all ranks have finished the call.
        """
        return self._call(method, [args] * self.size)

    def call_split(
        self, method: str, parts: Sequence[Any], *args: Any, tick: Callable[[int], None] | None = None
    ) -> list[Any]:
        """Runs method(some of the parts, *args) on every rank. Returns the results by rank.

        Rank r gets every size-th part, starting with part r. For methods in `lockstep`, ranks with one part less than
        others get a `Padding` as well.

        Args:
            tick: called on rank 0 after each of its parts, with the number of parts done on all ranks (an estimate).

        Raises:
            srpo.Error: as in `call_all`.
        """
        padding = [Padding(parts[0])] * (-len(parts) % self.size) if method in self.lockstep else []
        arguments = [([*parts, *padding][rank :: self.size], *args) for rank in range(self.size)]
        if tick is not None:
            arguments[0] = (*arguments[0], lambda n: tick(min(n * self.size, len(parts))))
        return self._call(method, arguments)

    def close(self) -> None:
        for pipe in self.pipes:
            pipe.close()
        self.pipes = []

    def _call(self, method: str, arguments: list[tuple]) -> list[Any]:
        errors: list[BaseException] = []
        own = None
        try:
            for pipe, args in zip(self.pipes, arguments[1:]):
                pipe.send((method, args))
        except OSError as e:
            raise self._lost_rank() from e
        try:
            own = getattr(self.policy, method)(*arguments[0])
        except BaseException as e:
            errors.append(e)
        # Even if rank 0 fails, the replies of the others are read, so that the next call does not receive them.
        return [own, *self._replies(errors)]

    def _replies(self, errors: list[BaseException]) -> list[Any]:
        results = []
        for rank, pipe in enumerate(self.pipes, 1):
            try:
                error, result = pipe.recv()
            except (EOFError, OSError) as e:
                raise self._lost_rank() from e
            results.append(result)
            if error:
                kind, message, place, hint, detail = error
                errors.append(srpo.Error(kind, message, place=place, hint=hint, detail=detail).at(f"process {rank}"))
        if errors:
            raise errors[0]
        return results

    def _lost_rank(self) -> srpo.Error:
        """The error for a broken pipe. The host knows the cause, and usually ends this process during the wait."""
        time.sleep(10)
        return srpo.Error("unavailable", "a process of the policy has ended", place=f"policy {self.policy.name}")


def follow(policy: Any, processes: ProcessGroup) -> None:
    """Connects to rank 0 and starts a thread that runs its commands until rank 0 ends. For ranks other than 0."""
    pipe = _connect(os.path.join(processes.rendezvous, _SOCKET))
    pipe.send(processes.rank)

    def work() -> None:
        while True:
            try:
                method, args = pipe.recv()
            except (EOFError, OSError):
                return
            try:
                reply = None, policy.run_command(method, args)
            except BaseException as e:
                reply = _error_fields(e), None
            pipe.send(reply)

    threading.Thread(target=work, name="commands", daemon=True).start()


def _connect(path: str) -> connection.Connection:
    """Connects to rank 0, which may still be loading its network. The host limits the time."""
    while True:
        try:
            return connection.Client(path, "AF_UNIX")
        except (FileNotFoundError, ConnectionRefusedError):
            time.sleep(0.05)


def _error_fields(e: BaseException) -> tuple[str, ...]:
    """An exception as the fields of a `srpo.Error`, which can be sent to rank 0."""
    if isinstance(e, srpo.Error):
        return e.kind, e.message, e.place, e.hint, e.detail
    lines = "".join(traceback.format_exception(e)).rstrip()
    print(lines, file=sys.stderr, flush=True)
    return "internal", f"{type(e).__name__}: {e}", "", "a bug in the plugin; its log has the whole traceback", lines
