"""Dense rewards for recorded attempts, without training: `python score.py`.

Nine attempts at pushing a block: five succeed, three stop on the way, and one has no label.
Needs numpy, srpo_sdk with what it needs, and the srpo program on PATH (or its path in SRPO_PROGRAM).
"""

import numpy as np
from srpo_sdk import reward


def video(arrives, seed, frames=20):
    """uint8 [frames, 32, 48, 3]: a block that moves this share of the way to the right."""
    out = np.full((frames, 32, 48, 3), (50, 70, 90), np.uint8)
    top = 10 + np.random.default_rng(seed).integers(5)
    for t in range(frames):
        left = 2 + int(36 * arrives * t / (frames - 1))
        out[t, top : top + 8, left : left + 8] = (220, 90, 40)
    return out


attempts = [{"id": f"success {n}", "task": "push", "success": True, "frames": video(1.0, n)} for n in range(5)]
for share in (0.2, 0.5, 0.8):
    attempts.append({"id": f"failure at {share:.0%}", "task": "push", "success": False, "frames": video(share, 9)})
attempts.append({"id": "no label", "task": "push", "success": None, "frames": video(0.9, 7)})

scores = reward.score(attempts, encoder="pixel")
for s in scores:
    print(f"{s.id:15} reward {s.reward:.2f}  distance {s.distance:.2f}")
print(f"AUROC {scores.metrics['mean']['auroc']['value']:.2f}")
