"""Entry of the remote plugin: started by the srpo host, or ``python plugin.py`` in its environment."""

import srpo_sdk  # first: it reserves stdout for the handshake

from remote_policy import Remote

if __name__ == "__main__":
    srpo_sdk.serve(Remote)
