"""Reads the benchmark's files of start states without torch and without running their code.

torch.save wrote these files. Each is a zip archive with a pickle of one NumPy array. Unpickling can call any function
that the pickle names, so only the names that an array needs are allowed.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path

import numpy as np

_ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),  # protocol 2 uses it for the bytes of the array
}


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module, name):
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"the pickle names {module}.{name}, which an array does not need")
        return super().find_class(module, name)


def read(path: Path) -> np.ndarray:
    """Return float64 [n, 1 + nq + nv] of a .pruned_init file.

    Raises:
        ValueError: the file does not contain start states; the text contains its path.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            member = next(name for name in archive.namelist() if name.endswith("data.pkl"))
            states = _ArraysOnly(io.BytesIO(archive.read(member))).load()
    except (zipfile.BadZipFile, StopIteration, pickle.UnpicklingError, EOFError) as error:
        raise ValueError(f"{path} is not a file of start states: {error}") from error
    if not isinstance(states, np.ndarray) or states.dtype != np.float64 or states.ndim not in (1, 2):
        raise ValueError(f"{path} does not contain an array of start states")
    return states.reshape(-1, states.shape[-1])
