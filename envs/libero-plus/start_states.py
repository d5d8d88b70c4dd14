"""Start states from the benchmark's files, which torch.save wrote, without torch and without running what is in them.

Such a file is a zip archive with a pickle of one NumPy array. Unpickling runs whatever a pickle names, so only what an
array is made of may be named here.
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
    ("_codecs", "encode"),  # how protocol 2 writes the bytes of the array
}


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module, name):
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"a file of start states names {module}.{name}, which no array needs")
        return super().find_class(module, name)


def read(path: Path) -> np.ndarray:
    """float64 [n, 1 + nq + nv] of a .pruned_init file; ValueError, with the file's name, for anything else."""
    try:
        with zipfile.ZipFile(path) as archive:
            member = next(name for name in archive.namelist() if name.endswith("data.pkl"))
            states = _ArraysOnly(io.BytesIO(archive.read(member))).load()
    except (zipfile.BadZipFile, StopIteration, pickle.UnpicklingError, EOFError) as error:
        raise ValueError(f"{path} is no file of start states: {error}") from error
    if not isinstance(states, np.ndarray) or states.dtype != np.float64 or states.ndim not in (1, 2):
        raise ValueError(f"{path} holds no array of start states")
    return states.reshape(-1, states.shape[-1])
