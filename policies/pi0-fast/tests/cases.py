"""The policy in the env of the tests."""

import srpo_sdk as srpo

from policy import Pi0FastPolicy, write_tiny
from settings import SETTINGS
from vla_lerobot.testing.cases import ENV


def make(folder: str) -> None:
    write_tiny(folder, 3, ENV, 8)


def policy(env: srpo.EnvSpec = ENV, world: dict | None = None, **settings) -> Pi0FastPolicy:
    # Short strings, since a random network generates as many tokens as it can.
    values = {**{s.name: s.default for s in SETTINGS}, "max_tokens": 12}
    if "checkpoint" not in settings:
        values["preset"] = "tiny"
    return Pi0FastPolicy(srpo.PolicyConfig({**values, **settings}, seed=3, env=env, **(world or {})))
