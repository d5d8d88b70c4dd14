"""Where this plugin may write: one cache folder, never the home folder and never the installed packages.

Several of LIBERO's libraries write when they are imported (numba beside the source, matplotlib and Mesa in the home
folder, robosuite a log in the temporary folder). ``redirect_writes`` moves all of that and must run before them.
"""

from __future__ import annotations

import os
import stat
import sys
import tempfile
import types
from pathlib import Path


def cache_folder() -> Path:
    """The folder for compiled code and library caches: under $SRPO_CACHE, $XDG_CACHE_HOME or the temporary folder."""
    for variable in ("SRPO_CACHE", "XDG_CACHE_HOME"):
        root = os.environ.get(variable)
        if root:
            folder = Path(root) / "srpo-libero"
            folder.mkdir(parents=True, exist_ok=True)
            return folder
    return _private_temporary_folder(f"srpo-libero-{os.getuid()}")


def _private_temporary_folder(name: str) -> Path:
    """``name`` in the temporary folder if it is ours alone (numba loads pickles from it), else a fresh one."""
    folder = Path(tempfile.gettempdir()) / name
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077:
        return folder
    return Path(tempfile.mkdtemp(prefix=name + "-"))


def redirect_writes(package: str = "libero") -> Path:
    """Point every library's files at the cache folder; returns it. Variables that are set already are kept.

    ``package`` is the one whose list of folders LIBERO_CONFIG_PATH holds: each benchmark has its own.
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
    # robosuite opens a log file in the temporary folder unless its private macros say otherwise; the file is shared
    # by all users of a machine and belongs to the first. It imports this module by name, so it need not exist on disk.
    if "robosuite" not in sys.modules:
        sys.modules.setdefault("robosuite.macros_private", types.ModuleType("robosuite.macros_private"))
    return cache
