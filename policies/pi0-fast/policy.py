"""pi0-fast as an srpo policy."""

import srpo_sdk as srpo

import fast
import settings
from network import TokenNetwork
from vla_lerobot import tiny
from vla_lerobot.policy import PiPolicy


def write_tiny(folder: str, seed: int, env: srpo.EnvSpec, chunk: int) -> None:
    """Writes a small pi0-fast for an env. It plans exactly `chunk` actions."""
    config = {
        "chunk_size": chunk,
        "n_action_steps": chunk,
        "max_state_dim": 32,
        "max_action_dim": 32,
        # One or two bytes per number, and BOS, "Action: ", "|" and EOS.
        "max_action_tokens": 2 * chunk * env.action.dim + 16,
        "max_decoding_steps": chunk * env.action.dim + 8,
        "tokenizer_max_length": 64,
    }
    tiny.write(folder, seed, TokenNetwork, config, env, action_tokenizer=fast.small_tokenizer())


class Pi0FastPolicy(PiPolicy):
    name = "pi0-fast"
    network_class = TokenNetwork
    write_tiny = staticmethod(write_tiny)
    own_settings = tuple(s.name for s in settings.OWN)
