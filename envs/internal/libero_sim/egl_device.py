"""Choice of the EGL device that renders, made before robosuite and MuJoCo read the environment.

CUDA_VISIBLE_DEVICES restricts CUDA, not EGL. robosuite 1.4 takes it for the number of an EGL device and fails if it is
empty, a UUID, a MIG device or too large. `srpo doctor` runs this file with its test drawing, so it imports only the
standard library.
"""

from __future__ import annotations

import ctypes
import os
import re
from typing import Any

VARIABLE = "MUJOCO_EGL_DEVICE_ID"
_PLATFORM_DEVICE = 0x313F  # EGL_PLATFORM_DEVICE_EXT
_MAX_DEVICES = 10  # as in mujoco.egl, which numbers the devices


class Unusable(Exception):
    """MUJOCO_EGL_DEVICE_ID is not the number of a device that can render."""


class Devices:
    """The EGL devices of this machine, in EGL's order.

    Raises:
        OSError: libEGL.so.1 is missing.
        ImportError: the EGL library cannot list devices.
    """

    def __init__(self) -> None:
        egl = ctypes.CDLL("libEGL.so.1")
        egl.eglGetProcAddress.restype, egl.eglGetProcAddress.argtypes = ctypes.c_void_p, [ctypes.c_char_p]

        def function(name: str, result: Any, *arguments: Any) -> Any:
            address = egl.eglGetProcAddress(name.encode())
            if not address:
                raise ImportError(f"this EGL library has no {name}")
            return ctypes.CFUNCTYPE(result, *arguments)(address)

        pointer, integer = ctypes.c_void_p, ctypes.c_int
        query = function("eglQueryDevicesEXT", ctypes.c_uint, integer, pointer, pointer)
        self._display = function("eglGetPlatformDisplayEXT", pointer, ctypes.c_uint, pointer, pointer)
        self._initialize = function("eglInitialize", ctypes.c_uint, pointer, pointer, pointer)
        self._error = function("eglGetError", integer)
        found, count = (pointer * _MAX_DEVICES)(), integer()
        if not query(_MAX_DEVICES, ctypes.addressof(found), ctypes.addressof(count)):
            raise ImportError("eglQueryDevicesEXT fails")
        self._found = list(found[: count.value])

    def __len__(self) -> int:
        return len(self._found)

    def works(self, number: int) -> bool:
        """Return whether the device can be initialised. Initialising takes memory on its GPU."""
        display = self._display(_PLATFORM_DEVICE, self._found[number], None)
        works = bool(display) and bool(self._initialize(display, None, None))
        self._error()  # clears the error, which is not one of a later call
        return works


def select(chosen: str | None, cuda: str | None, devices: Devices) -> int:
    """Return the number of the EGL device to render on.

    Args:
        chosen: MUJOCO_EGL_DEVICE_ID. If it is set, this device is used or refused.
        cuda: CUDA_VISIBLE_DEVICES. Its first entry is tried first if it is the number of an EGL device.
        devices: the EGL devices; any object with `__len__` and `works`.

    Raises:
        Unusable: MUJOCO_EGL_DEVICE_ID is not the number of a device that can be initialised.
        ImportError: no device can be initialised.
    """
    count = len(devices)
    if chosen:
        number = _number(chosen, count)
        if number is None:
            raise Unusable(f"{VARIABLE} is {chosen!r}, want the number of an EGL device, 0 to {count - 1}")
        if not devices.works(number):
            raise Unusable(f"{VARIABLE} is {chosen!r}, and this EGL device cannot be initialised")
        return number
    first = _number((cuda or "").split(",")[0], count)
    order = sorted(range(count), key=lambda number: number != first)
    for number in order:
        if devices.works(number):
            return number
    raise ImportError(f"none of {count} EGL devices can be initialised")


def _number(text: str, count: int) -> int | None:
    """Return the text as a number below count, else None."""
    if not re.fullmatch(r"[0-9]{1,9}", text.strip()) or int(text) >= count:
        return None
    return int(text)


def prepare() -> str:
    """Set MUJOCO_EGL_DEVICE_ID to the chosen device, and return a line that reports the choice.

    CUDA_VISIBLE_DEVICES is removed from this process, because robosuite 1.4 also refuses a MUJOCO_EGL_DEVICE_ID that
    it does not contain.

    Raises:
        Unusable: see `select`.
        OSError, ImportError: see `Devices` and `select`.
    """
    chosen, cuda = os.environ.get(VARIABLE), os.environ.pop("CUDA_VISIBLE_DEVICES", None)
    devices = Devices()
    number = select(chosen, cuda, devices)
    os.environ[VARIABLE] = str(number)
    if chosen:
        return f"EGL device {number} of {len(devices)}, from {VARIABLE}"
    given = "not set" if cuda is None else repr(cuda)
    return f"EGL device {number} of {len(devices)}; CUDA_VISIBLE_DEVICES is {given}"
