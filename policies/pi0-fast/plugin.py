"""Entry of the pi0-fast plugin: started by the srpo host, or ``python plugin.py`` in its environment."""

import sys
from pathlib import Path

import srpo_sdk  # first: it takes stdout for the handshake before torch's packages print on it

# In a checkout the shared packages are in policies/internal; in the package that srpo unpacks, beside this file.
sys.path.append(str(Path(__file__).resolve().parents[1] / "internal"))

from settings import SETTINGS


class Pi0Fast(srpo_sdk.Policy):
    """What can be said without torch, which takes long to import: the host waits longer for Configure than for this."""

    info = srpo_sdk.Info(
        name="pi0-fast",
        version="0.1.0",
        doc="pi0-fast: actions as FAST tokens, from lerobot's checkpoint format",
        settings=SETTINGS,
        versions=["lerobot", "torch", "transformers", "safetensors"],
        distributed=True,
    )

    def __new__(cls, config: srpo_sdk.PolicyConfig) -> srpo_sdk.Policy:
        from policy import Pi0FastPolicy

        return Pi0FastPolicy(config)


if __name__ == "__main__":
    srpo_sdk.serve(Pi0Fast)
