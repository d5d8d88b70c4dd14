"""The only folder that the plugin writes to: a cache, and never the home folder or the installed packages.

Several of LIBERO's libraries write when they are imported: numba next to the source, matplotlib and Mesa to the home
folder, robosuite a log to the temporary folder. ``redirect_writes`` redirects them and must run before their import.
"""

from __future__ import annotations

import os
import stat
import sys
import tempfile
import types
from pathlib import Path


def cache_folder() -> Path:
    """Return the folder for compiled code and library caches.

    It is in $SRPO_CACHE, $XDG_CACHE_HOME or the temporary folder, and is created if necessary.
    """
    for variable in ("SRPO_CACHE", "XDG_CACHE_HOME"):
        root = os.environ.get(variable)
        if root:
            folder = Path(root) / "srpo-libero"
            folder.mkdir(parents=True, exist_ok=True)
            return folder
    return _private_temporary_folder(f"srpo-libero-{os.getuid()}")


def _private_temporary_folder(name: str) -> Path:
    """Return folder ``name`` in the temporary folder if only this user can access it, else a new folder.

    numba loads pickles from this folder, so other users must not be able to write to it.
    """
    folder = Path(tempfile.gettempdir()) / name
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.lstat()
    if stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & 0o077:
        return folder
    return Path(tempfile.mkdtemp(prefix=name + "-"))


def redirect_writes(package: str = "libero") -> Path:
    """Redirect the files of all libraries to the cache folder and return it. Variables that are set are kept.

    Args:
        package: the benchmark's package; each has a separate folder for its configuration (LIBERO_CONFIG_PATH).
    """
    cache = cache_folder()
    for variable, name in (
        ("NUMBA_CACHE_DIR", "numba"),
        ("MPLCONFIGDIR", "matplotlib"),
        ("MESA_SHADER_CACHE_DIR", "mesa"),
        ("LIBERO_CONFIG_PATH", package),
    ):
        if variable not in os.environ:
            (cache / name).mkdir(parents=True, exist_ok=True)
            os.environ[variable] = str(cache / name)
    # Without a module of private macros, robosuite opens a log file in the temporary folder that all users of a machine
    # share and that belongs to the first. An empty module is enough.
    if "robosuite" not in sys.modules:
        sys.modules.setdefault("robosuite.macros_private", types.ModuleType("robosuite.macros_private"))
    return cache
