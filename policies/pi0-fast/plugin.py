"""Entry of the pi0-fast plugin: started by the srpo host, or ``python plugin.py`` in its environment."""

import sys
from pathlib import Path

import srpo_sdk  # before torch: it takes stdout for the handshake, and torch's packages print

# In a checkout the shared packages are in policies/internal; in the package that srpo unpacks, beside this file.
sys.path.append(str(Path(__file__).resolve().parents[1] / "internal"))

from settings import SETTINGS

INFO = srpo_sdk.Info(
    name="pi0-fast",
    version="0.1.0",
    doc="pi0-fast: actions as FAST tokens, from lerobot's checkpoint format",
    settings=SETTINGS,
    versions=["lerobot", "torch", "transformers", "safetensors"],
    distributed=True,
)

if __name__ == "__main__":
    # policy.py imports torch, which takes long; the kit imports it after the handshake.
    srpo_sdk.serve("policy:Pi0FastPolicy", info=INFO)
