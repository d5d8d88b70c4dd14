"""Entry of the libero-plus plugin: started by the srpo host, or ``python plugin.py`` in its environment."""

import sys
from pathlib import Path

import srpo_sdk  # first: it takes stdout for the handshake before LIBERO's packages print on it

if not (Path(__file__).resolve().parent / "lane.py").exists():
    # In a checkout the modules that it shares with libero are next door; in the package that srpo unpacks, beside it.
    sys.path.append(str(Path(__file__).resolve().parents[1] / "libero"))

from plus_env import LiberoPlus

if __name__ == "__main__":
    srpo_sdk.serve(LiberoPlus)
