"""The env and the inputs of the tests of pi0 and pi0-fast."""

import numpy as np
import srpo_sdk as srpo
import torch

from vla_lerobot.policy import PiPolicy

LIBERO = srpo.ActionSpace(
    ["dx", "dy", "dz", "drx", "dry", "drz", "gripper"],
    [-1] * 7,
    [1] * 7,
    "end-effector delta, OSC_POSE; gripper -1 open, +1 close",
)
ENV = srpo.EnvSpec(
    [srpo.Camera("agentview", 64, 64), srpo.Camera("eye_in_hand", 64, 64, "wrist")],
    LIBERO,
    proprio=[f"p{i}" for i in range(8)],
    record_camera="agentview",
)
INSTRUCTIONS = ["pick up the bbq sauce and place it in the basket", "open the top drawer"]


def frame(n: int, height: int = 64, width: int = 64) -> np.ndarray:
    """An image with ramps and noise, uint8 [height, width, 3]."""
    rng = np.random.Generator(np.random.PCG64(n))
    y, x = np.mgrid[:height, :width].astype(np.float64)
    out = np.stack([127 + 100 * np.sin(x / (7 + n % 5)), 255 * y / height, 127 + 100 * np.cos((x + y) / 23)], -1)
    return np.clip(out + 8 * rng.standard_normal(out.shape), 0, 255).astype(np.uint8)


def item(i: int, step: int = 0, seed: int | None = None) -> srpo.ActItem:
    proprio = np.sin(np.arange(8) + i + step).astype(np.float32)
    observation = srpo.Observation({"agentview": frame(i + step)}, proprio, INSTRUCTIONS[i % 2])
    return srpo.ActItem(f"0/t/0/{i}", step, observation, 100 * i + step if seed is None else seed)


def update(n: int = 1, kl: float = 0.1, steps: int = 11, temperature: float = 1.2, values=None, **more) -> srpo.Update:
    h = dict(clip_low=0.2, clip_high=0.28, kl_beta=kl, epochs=2, mini_batch=3, clip_dual=0.0)
    h.update(more)
    trajectories = [
        srpo.Advantage(f"0/t/0/{i}", np.array([1.0 if i % 2 else -1.0]) if values is None else values(i), steps)
        for i in range(3)
    ]
    return srpo.Update(n, trajectories, srpo.Hyperparameters(**h), temperature, 7)


def record(p: PiPolicy) -> None:
    """Records two chunks of three episodes."""
    sampling = srpo.Sampling(temperature=1.2, record=True)
    p.act([item(i) for i in range(3)], sampling)
    p.act([item(i, p.describe().chunk) for i in range(3)], sampling)


def demonstration(n: int = 0, steps: int = 12, **more) -> srpo.Demonstration:
    t = np.arange(steps)[:, None]
    actions = (0.8 * np.cos(t / 3 + np.arange(7))).astype(np.float32)
    actions[:, 3] = 0.25  # a dimension that never moves
    actions[:, -1] = np.where(t[:, 0] < 6, -1, 1)
    images = {"agentview": np.stack([frame(i + n) for i in range(steps)])}
    proprio = np.sin(t / 4 + np.arange(8)).astype(np.float32)
    return srpo.Demonstration(f"demo{n}", INSTRUCTIONS[0], images, proprio, actions, True, **more)


def parameters(p: PiPolicy) -> dict[str, torch.Tensor]:
    return dict(p.network.trunk.named_parameters())


def equal(a: PiPolicy, b: PiPolicy) -> bool:
    other = parameters(b)
    return all(torch.equal(x, other[n]) for n, x in parameters(a).items())
