"""The openvla policy in a small env, for its own tests and for the checks in vla.testing."""

import cases
import numpy as np
import srpo_sdk as srpo
import torch

from policy import OpenVLAPolicy
from settings import SETTINGS

# Settings of policies that continue after save and load exactly as without.
RESUMED = [
    {},
    {"lora_rank": 4},
    {"lora_rank": 4, "save_merged": False},
    {"dtype": "bfloat16"},
    {"offload_optimizer": True},
]
# Settings with which several processes are compared with one, and their learning rate.
LR = 1e-4
KINDS = {
    "whole": {"lr": LR},
    "adapters": {"lr": LR, "lora_rank": 4, "offload_optimizer": True},
    "shards": {"lr": LR, "shard": "weights", "offload_optimizer": True, "gradient_checkpointing": True},
    "sharded adapters": {"lr": LR, "shard": "weights", "lora_rank": 4},
}

LIBERO = srpo.ActionSpace(
    ["dx", "dy", "dz", "drx", "dry", "drz", "gripper"],
    [-1] * 7,
    [1] * 7,
    "end-effector delta, OSC_POSE; gripper -1 open, +1 close",
)
ENV = srpo.EnvSpec([srpo.Camera("agentview", 64, 64)], LIBERO, record_camera="agentview")


def policy(env: srpo.EnvSpec = ENV, world: dict | None = None, **settings) -> OpenVLAPolicy:
    values = {s.name: s.default for s in SETTINGS}
    if "checkpoint" not in settings:
        values["preset"] = "tiny"
    return OpenVLAPolicy(srpo.PolicyConfig({**values, **settings}, seed=3, env=env, **(world or {})))


def item(i: int, step: int = 0, seed: int | None = None) -> srpo.ActItem:
    observation = srpo.Observation({"agentview": cases.frame(i + step, 64, 64)}, None, cases.INSTRUCTIONS[i % 2])
    return srpo.ActItem(f"0/t/0/{i}", step, observation, 100 * i + step if seed is None else seed)


def update(n: int = 1, kl: float = 0.1, steps: int = 11, values=None, **more) -> srpo.Update:
    h = dict(clip_low=0.2, clip_high=0.28, kl_beta=kl, epochs=2, mini_batch=3, clip_dual=0.0)
    h.update({k: v for k, v in more.items() if k in h})
    trajectories = [
        srpo.Advantage(f"0/t/0/{i}", np.array([1.0 if i % 2 else -1.0]) if values is None else values(i), steps)
        for i in range(3)
    ]
    return srpo.Update(n, trajectories, srpo.Hyperparameters(**h), 1.6, 7)


def record(p: OpenVLAPolicy) -> None:
    """Records two chunks of three episodes."""
    sampling = srpo.Sampling(temperature=1.6, record=True)
    p.act([item(i) for i in range(3)], sampling)
    p.act([item(i, p.describe().chunk) for i in range(3)], sampling)


def parameters(p: OpenVLAPolicy) -> dict[str, torch.Tensor]:
    return dict(p.network.model.named_parameters())


def equal(a: OpenVLAPolicy, b: OpenVLAPolicy) -> bool:
    other = parameters(b)
    return all(torch.equal(x, other[n]) for n, x in parameters(a).items())


def demonstration(n: int = 0, steps: int = 12) -> srpo.Demonstration:
    images = np.stack([cases.frame(t + n, 64, 64) for t in range(steps)])
    t = np.arange(steps)[:, None]
    actions = (0.8 * np.cos(t + np.arange(7))).astype(np.float32)
    actions[:, 3] = 0.25  # a dimension that never moves
    actions[:, -1] = np.where(t[:, 0] < 6, -1, 1)
    return srpo.Demonstration(f"demo{n}", cases.INSTRUCTIONS[0], {"agentview": images}, None, actions, True)
