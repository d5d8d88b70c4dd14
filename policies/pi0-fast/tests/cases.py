"""The plugin in the tests' env."""

import srpo_sdk as srpo

from policy import Pi0FastPolicy, make_tiny
from settings import SETTINGS
from vla_lerobot.testing.cases import ENV


def make(folder: str) -> None:
    make_tiny(folder, 3, ENV, 8)


def policy(env: srpo.EnvSpec = ENV, world: dict | None = None, **settings) -> Pi0FastPolicy:
    # Strings are short here: a random network writes as many tokens as it may.
    values = {**{s.name: s.default for s in SETTINGS}, "max_tokens": 12}
    if "checkpoint" not in settings:
        values["preset"] = "tiny"
    return Pi0FastPolicy(srpo.PolicyConfig({**values, **settings}, seed=3, env=env, **(world or {})))
