"""pi0 as an srpo policy."""

import srpo_sdk as srpo

import settings
from network import FlowNetwork
from vla_lerobot import tiny
from vla_lerobot.policy import PiPolicy


def write_tiny(folder: str, seed: int, env: srpo.EnvSpec, chunk: int) -> None:
    """Writes a small pi0 for an env. It plans exactly `chunk` actions."""
    config = {
        "chunk_size": chunk,
        "n_action_steps": chunk,
        "max_state_dim": 32,
        "max_action_dim": 32,
        "num_inference_steps": 4,
    }
    tiny.write(folder, seed, FlowNetwork, config, env)


class Pi0Policy(PiPolicy):
    name = "pi0"
    network_class = FlowNetwork
    write_tiny = staticmethod(write_tiny)
    own_settings = tuple(s.name for s in settings.OWN)

    def _expert_only(self) -> bool:
        return self._setting("learn", "expert", "all") == "expert"
