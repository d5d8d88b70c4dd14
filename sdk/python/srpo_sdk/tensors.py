"""Tensors between numpy and the wire: in the arena's shared memory, or as bytes inside the message."""

from __future__ import annotations

import fcntl
import math
import mmap
import os
import struct
from typing import Any

import numpy as np
import numpy.typing as npt

from ._proto import base_pb2 as pb
from .errors import Error

ALIGN = 64
HEADER = 64
MAX_ELEMENTS = 1 << 30
_F_GET_SEALS = 1034
_F_SEAL_SHRINK = 2

Array = npt.NDArray[Any]

_DTYPES: dict[int, np.dtype[Any]] = {
    pb.DTYPE_UINT8: np.dtype("|u1"),
    pb.DTYPE_FLOAT32: np.dtype("<f4"),
    pb.DTYPE_FLOAT64: np.dtype("<f8"),
    pb.DTYPE_INT64: np.dtype("<i8"),
}
_CODES: dict[np.dtype[Any], Any] = {dtype: code for code, dtype in _DTYPES.items()}


class Arena:
    """The shared memory that the host made for this process.

    Args:
        fd: the inherited descriptor of a memfd that is sealed against shrinking.
        size: its size in bytes.

    Raises:
        Error: "corrupt" when the descriptor is not such a file, or smaller than size.
    """

    def __init__(self, fd: int, size: int):
        try:
            actual = os.fstat(fd).st_size
            seals = fcntl.fcntl(fd, _F_GET_SEALS)
            if size <= 0 or actual < size:
                raise Error("corrupt", f"the arena has {actual} bytes, want {size}")
            if not seals & _F_SEAL_SHRINK:
                raise Error("corrupt", f"arena descriptor {fd} is not sealed against shrinking")
            os.set_inheritable(fd, False)
            self._memory = mmap.mmap(fd, size, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        except OSError as e:
            raise Error("corrupt", f"arena descriptor {fd}: {e.strerror}", hint='set [host] arena = "off"') from e
        self.size = size
        self._bytes = np.frombuffer(self._memory, np.uint8)

    def region(self, offset: int, length: int, generation: int) -> npt.NDArray[np.uint8]:
        """Returns a view of a slot, uint8 [length], after a check of its bounds and generation.

        Raises:
            Error: "corrupt" for a reference that is out of bounds, not aligned, longer than granted, or stale.
        """
        if offset < HEADER or offset % ALIGN or offset > self.size or length > self.size - offset:
            raise Error(
                "corrupt", f"arena reference [{offset}, +{length}) is outside of {self.size} bytes, or not aligned"
            )
        if generation == 0:
            raise Error("corrupt", "arena reference without a generation")
        now, granted = struct.unpack_from("<QQ", self._memory, offset - HEADER)
        if now != generation:
            raise Error("corrupt", f"stale arena reference: generation {generation}, now {now}")
        if length > granted:
            raise Error("corrupt", f"arena reference of {length} bytes into a slot of {granted}")
        return self._bytes[offset : offset + length]


def read(tensor: pb.Tensor, arena: Arena | None, what: str) -> Array:
    """Returns the tensor of a request as a read-only array, without a copy if it is in the arena.

    The array is valid during the call only. `what` names the tensor in errors.

    Raises:
        Error: "corrupt" when type, shape and bytes do not fit, or the slot is not granted.
    """
    dtype = _DTYPES.get(tensor.dtype)
    shape = tuple(tensor.shape)
    if dtype is None or any(n < 0 for n in shape) or math.prod(shape) > MAX_ELEMENTS:
        raise Error("corrupt", f"{what} has element type {tensor.dtype} and shape {list(shape)}")
    want = math.prod(shape) * dtype.itemsize
    data: npt.NDArray[np.uint8] | bytes
    if tensor.WhichOneof("data") == "slot":
        if arena is None:
            raise Error("corrupt", f"{what} is in an arena, but Configure named none")
        data = arena.region(tensor.slot.offset, tensor.slot.length, tensor.slot.generation)
        have = int(tensor.slot.length)
    else:
        data = tensor.inline
        have = len(data)
    if have != want:
        raise Error("corrupt", f"{what} has shape {list(shape)} of {dtype.name} but {have} bytes")
    array: Array = (np.frombuffer(data, dtype) if isinstance(data, bytes) else data.view(dtype)).reshape(shape)
    array.flags.writeable = False
    return array


class Writer:
    """Puts a reply's tensors one after another into the slot that the request granted.

    Tensors that do not fit, and all of them if there is no slot, go inside the message.

    Raises:
        Error: "corrupt" when the grant is stale.
    """

    def __init__(self, arena: Arena | None, grant: pb.Slot | None):
        self._used = 0
        self._room = 0
        if arena is not None and grant is not None and grant.length > 0:
            self._region = arena.region(grant.offset, grant.length, grant.generation)
            self._grant, self._arena, self._room = grant, arena, grant.length

    def reserve(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Reserved:
        """Returns an uninitialised array for the caller to fill: in the grant if it fits, else in separate memory."""
        dtype = np.dtype(dtype)
        size = math.prod(shape) * dtype.itemsize
        if size == 0 or self._used + size > self._room:
            return Reserved(np.empty(shape, dtype), None)
        self.check()
        start = self._used
        self._used = (start + size + ALIGN - 1) & ~(ALIGN - 1)
        array = self._region[start : start + size].view(dtype).reshape(shape)
        return Reserved(array, pb.Slot(offset=self._grant.offset + start, generation=self._grant.generation))

    def check(self) -> None:
        """Raises `Error` ("corrupt") once the host has taken the grant back, so that a call whose deadline has passed
        stops writing.
        """
        if self._room:
            self._arena.region(self._grant.offset, self._room, self._grant.generation)

    def put(self, array: Array) -> pb.Tensor:
        """Copies an array (uint8, float32, float64 or int64, any strides) and returns its wire form."""
        room = self.reserve(array.shape, array.dtype)
        room.array[...] = array
        return room.tensor()


class Reserved:
    """Memory for one array. The caller fills `array`; `tensor` then gives the wire form of its first rows."""

    def __init__(self, array: Array, slot: pb.Slot | None):
        self.array = array
        self._slot = slot

    def tensor(self, rows: int | None = None) -> pb.Tensor:
        """Returns the wire form of array[:rows]; None: of the whole array."""
        array = self.array if rows is None else self.array[:rows]
        tensor = pb.Tensor(dtype=_CODES[array.dtype], shape=array.shape)
        if self._slot is None:
            tensor.inline = array.tobytes()
        else:
            tensor.slot.CopyFrom(self._slot)
            tensor.slot.length = array.nbytes
        return tensor
