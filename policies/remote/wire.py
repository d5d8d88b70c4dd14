"""The messages of openpi's policy servers and clients: msgpack with NumPy arrays.

An array is a map with the keys ``b"__ndarray__"``, ``b"data"``, ``b"dtype"`` and ``b"shape"``. A NumPy number is a map
with ``b"__npgeneric__"``. Only numbers and booleans are supported. Arrays of objects would need pickle, which can run
any code.
"""

from __future__ import annotations

import math
from typing import Any

import msgpack
import numpy as np

NUMBERS = "biuf"  # kinds of dtype: boolean, integers, floating point


class MessageError(ValueError):
    """A message that the protocol does not allow."""


def pack(message: Any) -> bytes:
    """Encodes a message. Raises `MessageError` for values that cannot be sent."""
    return msgpack.packb(message, default=_pack_array)


def unpack(data: bytes) -> Any:
    """Decodes a message. Raises `MessageError` for bytes that are not msgpack, and for arrays of other than numbers."""
    try:
        return msgpack.unpackb(data, object_hook=_unpack_array, strict_map_key=False)
    except MessageError:
        raise
    except (ValueError, TypeError, OverflowError, msgpack.UnpackException) as error:
        raise MessageError(f"not msgpack: {error}") from error


def _pack_array(value: Any) -> Any:
    if not isinstance(value, (np.ndarray, np.generic)):
        raise MessageError(f"a {type(value).__name__} cannot be sent")
    if value.dtype.kind not in NUMBERS:
        raise MessageError(f"an array of dtype {value.dtype} cannot be sent")
    if isinstance(value, np.generic):
        return {b"__npgeneric__": True, b"data": value.item(), b"dtype": value.dtype.str}
    return {b"__ndarray__": True, b"data": value.tobytes(), b"dtype": value.dtype.str, b"shape": value.shape}


def _unpack_array(value: dict) -> Any:
    if b"__ndarray__" in value:
        dtype, shape, data = _dtype(value), value.get(b"shape"), value.get(b"data")
        if not isinstance(shape, (list, tuple)) or not all(isinstance(n, int) and n >= 0 for n in shape):
            raise MessageError(f"an array of shape {shape!r}")
        if not isinstance(data, bytes) or len(data) != math.prod(shape) * dtype.itemsize:
            size = len(data) if isinstance(data, bytes) else type(data).__name__
            raise MessageError(f"an array {list(shape)} of {dtype} in {size} bytes")
        return np.frombuffer(data, dtype).reshape(shape)
    if b"__npgeneric__" in value:
        return _dtype(value).type(value.get(b"data"))
    return value


def _dtype(value: dict) -> np.dtype:
    name = value.get(b"dtype")
    try:
        dtype = np.dtype(name)
    except TypeError as error:
        raise MessageError(f"an array of dtype {name!r}") from error
    if not isinstance(name, str) or dtype.kind not in NUMBERS:
        raise MessageError(f"an array of dtype {name!r}; only numbers and booleans are supported")
    return dtype
