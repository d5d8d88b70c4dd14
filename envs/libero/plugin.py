"""Entry of the libero plugin: started by the srpo host, or ``python plugin.py`` in its environment."""

import sys
from pathlib import Path

import srpo_sdk  # first: it reserves stdout for the handshake before LIBERO's packages print to it

# In a checkout the shared package is in envs/internal; in the package that srpo unpacks, it is next to this file.
sys.path.append(str(Path(__file__).resolve().parents[1] / "internal"))

from libero_env import Libero

if __name__ == "__main__":
    srpo_sdk.serve(Libero)
