"""Tensors between numpy and the wire: in the arena's shared memory, or as bytes inside the message."""

import fcntl
import math
import mmap
import os
import struct
from typing import Optional

import numpy as np

from ._proto import base_pb2 as pb
from .errors import Error

ALIGN = 64
HEADER = 64
MAX_ELEMENTS = 1 << 30
_F_GET_SEALS = 1034
_F_SEAL_SHRINK = 2

_DTYPES = {
    pb.DTYPE_UINT8: np.dtype("|u1"),
    pb.DTYPE_FLOAT32: np.dtype("<f4"),
    pb.DTYPE_FLOAT64: np.dtype("<f8"),
    pb.DTYPE_INT64: np.dtype("<i8"),
}
_CODES = {dtype: code for code, dtype in _DTYPES.items()}


class Arena:
    """The shared memory that the host made for this process.

    Args:
        fd: the inherited descriptor of a memfd that is sealed against shrinking.
        size: its bytes.

    Raises:
        Error: "corrupt" when the descriptor is not such a file, or smaller than said.
    """

    def __init__(self, fd: int, size: int):
        try:
            actual = os.fstat(fd).st_size
            seals = fcntl.fcntl(fd, _F_GET_SEALS)
            if size <= 0 or actual < size:
                raise Error("corrupt", f"the arena has {actual} bytes, said to have {size}")
            if not seals & _F_SEAL_SHRINK:
                raise Error("corrupt", f"arena descriptor {fd} is not sealed against shrinking")
            os.set_inheritable(fd, False)
            self._memory = mmap.mmap(fd, size, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        except OSError as e:
            raise Error("corrupt", f"arena descriptor {fd}: {e.strerror}", hint='set [host] arena = "off"') from e
        self.size = size
        self._bytes = np.frombuffer(self._memory, np.uint8)

    def region(self, offset: int, length: int, generation: int) -> np.ndarray:
        """Returns the uint8 view [length] of a slot, once its bounds and generation have been checked.

        Raises:
            Error: "corrupt" for a reference outside of the arena, not aligned, longer than granted, or stale.
        """
        if offset < HEADER or offset % ALIGN or offset > self.size or length > self.size - offset:
            raise Error(
                "corrupt", f"arena reference [{offset}, +{length}) outside of {self.size} bytes, or not aligned"
            )
        if generation == 0:
            raise Error("corrupt", "arena reference without a generation")
        now, granted = struct.unpack_from("<QQ", self._memory, offset - HEADER)
        if now != generation:
            raise Error("corrupt", f"stale arena reference: generation {generation}, now {now}")
        if length > granted:
            raise Error("corrupt", f"arena reference of {length} bytes into a slot of {granted}")
        return self._bytes[offset : offset + length]


def read(tensor: pb.Tensor, arena: Optional[Arena], what: str) -> np.ndarray:
    """Returns the read-only array that a request's tensor names, without a copy where it lies in the arena. It is
    valid during the call only.

    Raises:
        Error: "corrupt" when type, shape and bytes do not fit, or the slot is not granted.
    """
    dtype = _DTYPES.get(tensor.dtype)
    shape = tuple(tensor.shape)
    if dtype is None or any(n < 0 for n in shape) or math.prod(shape) > MAX_ELEMENTS:
        raise Error("corrupt", f"{what} has element type {tensor.dtype} and shape {list(shape)}")
    want = math.prod(shape) * dtype.itemsize
    which = tensor.WhichOneof("data")
    if which == "slot":
        if arena is None:
            raise Error("corrupt", f"{what} lies in an arena, but Configure named none")
        data = arena.region(tensor.slot.offset, tensor.slot.length, tensor.slot.generation)
        have = tensor.slot.length
    else:
        data = tensor.inline
        have = len(data)
    if have != want:
        raise Error("corrupt", f"{what} has shape {list(shape)} of {dtype.name} but {have} bytes")
    array = (data.view(dtype) if which == "slot" else np.frombuffer(data, dtype)).reshape(shape)
    array.flags.writeable = False
    return array


class Writer:
    """Puts a reply's tensors one after another into the slot that the request granted, and inside the message when
    they do not fit or there is no slot.

    Raises:
        Error: "corrupt" when the grant is stale.
    """

    def __init__(self, arena: Optional[Arena], grant: Optional[pb.Slot]):
        self._at = 0
        self._room = 0
        if arena is not None and grant is not None and grant.length > 0:
            self._region = arena.region(grant.offset, grant.length, grant.generation)
            self._grant, self._arena, self._room = grant, arena, grant.length

    def reserve(self, shape: tuple, dtype) -> "Reserved":
        """Returns room for an array that is filled in place: in the grant, or in memory of its own."""
        dtype = np.dtype(dtype)
        size = math.prod(shape) * dtype.itemsize
        if size == 0 or self._at + size > self._room:
            return Reserved(np.empty(shape, dtype), None)
        self.check()
        start = self._at
        self._at = (start + size + ALIGN - 1) & ~(ALIGN - 1)
        array = self._region[start : start + size].view(dtype).reshape(shape)
        return Reserved(array, pb.Slot(offset=self._grant.offset + start, generation=self._grant.generation))

    def check(self) -> None:
        """Raises `Error` ("corrupt") when the host has taken the grant back, so that a call that outlived its deadline
        writes no further.
        """
        if self._room:
            self._arena.region(self._grant.offset, self._room, self._grant.generation)

    def put(self, array: np.ndarray) -> pb.Tensor:
        """Copies an array (uint8, float32, float64 or int64, any strides) and returns its wire form."""
        room = self.reserve(array.shape, array.dtype)
        room.array[...] = array
        return room.tensor()


class Reserved:
    """Room for one array; the caller fills `array`, then `tensor` gives the wire form of its first `rows` rows."""

    def __init__(self, array: np.ndarray, slot: Optional[pb.Slot]):
        self.array = array
        self._slot = slot

    def tensor(self, rows: Optional[int] = None) -> pb.Tensor:
        array = self.array if rows is None else self.array[:rows]
        tensor = pb.Tensor(dtype=_CODES[array.dtype], shape=array.shape)
        if self._slot is None:
            tensor.inline = array.tobytes()
        else:
            tensor.slot.CopyFrom(self._slot)
            tensor.slot.length = array.nbytes
        return tensor
