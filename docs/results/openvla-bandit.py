"""A bandit that checks an update of openvla's tiny preset: four pictures, one chunk per episode. The reward is the mean
of the first action dimension. openvla.md has the numbers.

Usage, from policies/openvla in the plugin's environment (`srpo plugin install openvla` prints its folder):
PYTHONPATH=../../sdk/python:../internal:tests:. python ../../docs/results/openvla-bandit.py LR UPDATES
"""

import sys

import numpy as np
import srpo_sdk as srpo
import torch
from subject import item, policy

EPISODES = 48

torch.set_num_threads(1)
lr, updates = float(sys.argv[1]), int(sys.argv[2])
p = policy(lr=lr)
h = srpo.Hyperparameters(clip_low=0.2, clip_high=0.28, kl_beta=0.0, epochs=1, mini_batch=64, clip_dual=0.0)
for n in range(updates):
    inputs = [item(i % 4, seed=1000 * n + i) for i in range(EPISODES)]
    items = [srpo.ActItem(f"{n}/t/0/{i}", 0, x.observation, x.seed) for i, x in enumerate(inputs)]
    rewards = np.array([x.actions[:, 0].mean() for x in p.act(items, srpo.Sampling(temperature=1.0, record=True))])
    advantages = (rewards - rewards.mean()) / rewards.std()
    given = [srpo.Advantage(x.trajectory, np.array([a]), 8) for x, a in zip(items, advantages)]
    s = p.update(srpo.Update(n + 1, given, h, 1.0, n), lambda _: None)
    p.forget([])
    print(f"{n:3}  reward {rewards.mean():+.3f}  gradient {s.grad_norm:.3f}  entropy {s.entropy:.3f}", flush=True)
