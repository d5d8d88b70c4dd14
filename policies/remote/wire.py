"""The messages of openpi's policy servers and clients: msgpack with NumPy arrays.

An array is a map with the keys ``b"__ndarray__"``, ``b"data"``, ``b"dtype"`` and ``b"shape"``, and a NumPy scalar one
with ``b"__npgeneric__"``. Only numbers and booleans are accepted: an array of objects would need pickle, which executes
what it receives, and void and complex numbers are not used.
"""

from __future__ import annotations

import math
from typing import Any

import msgpack
import numpy as np

NUMBER_KINDS = "biuf"  # dtype.kind of booleans, integers and floating point


class Refused(ValueError):
    """A message that the protocol does not allow. Its text describes what was found."""


def pack(message: Any) -> bytes:
    """Returns the bytes of a message. Raises `Refused` for arrays of anything but numbers."""
    return msgpack.packb(message, default=_pack_array)


def unpack(data: bytes) -> Any:
    """Returns the message in the bytes. Raises `Refused` if they are not msgpack or contain arrays of anything but
    numbers.
    """
    try:
        return msgpack.unpackb(data, object_hook=_unpack_array, strict_map_key=False)
    except Refused:
        raise
    except (ValueError, TypeError, OverflowError, msgpack.UnpackException) as error:
        raise Refused(f"not msgpack: {error}") from error


def _pack_array(value: Any) -> Any:
    if not isinstance(value, (np.ndarray, np.generic)):
        raise Refused(f"a {type(value).__name__} cannot be sent")
    if value.dtype.kind not in NUMBER_KINDS:
        raise Refused(f"an array of dtype {value.dtype} cannot be sent")
    if isinstance(value, np.generic):
        return {b"__npgeneric__": True, b"data": value.item(), b"dtype": value.dtype.str}
    return {b"__ndarray__": True, b"data": value.tobytes(), b"dtype": value.dtype.str, b"shape": value.shape}


def _unpack_array(found: dict) -> Any:
    if b"__ndarray__" in found:
        dtype, shape, data = _dtype(found), found.get(b"shape"), found.get(b"data")
        if not isinstance(shape, (list, tuple)) or not all(isinstance(n, int) and n >= 0 for n in shape):
            raise Refused(f"an array of shape {shape!r}")
        if not isinstance(data, bytes) or len(data) != math.prod(shape) * dtype.itemsize:
            size = len(data) if isinstance(data, bytes) else type(data).__name__
            raise Refused(f"an array {list(shape)} of {dtype} in {size} bytes")
        return np.frombuffer(data, dtype).reshape(shape)
    if b"__npgeneric__" in found:
        return _dtype(found).type(found.get(b"data"))
    return found


def _dtype(found: dict) -> np.dtype:
    name = found.get(b"dtype")
    try:
        dtype = np.dtype(name)
    except TypeError as error:
        raise Refused(f"an array of dtype {name!r}") from error
    if not isinstance(name, str) or dtype.kind not in NUMBER_KINDS:
        raise Refused(f"an array of dtype {name!r}; only numbers and booleans are accepted")
    return dtype
