"""Entry of the libero plugin: started by the srpo host, or ``python plugin.py`` in its environment."""

import srpo_sdk  # first: it takes stdout for the handshake before LIBERO's packages print on it

from libero_env import Libero

if __name__ == "__main__":
    srpo_sdk.serve(Libero)
