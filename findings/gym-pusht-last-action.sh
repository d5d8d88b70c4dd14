#!/bin/bash
# gym-pusht 0.1.8 with gymnasium 1.4.0: reset does not clear the attribute _last_action of the environment. A picture that is
# rendered right after a reset shows the action mark of the episode before, so it depends on more than the seed.
# Seen: _last_action is None after the first reset, and [100, 100] after a step and a second reset with the same seed.
# Fails if the behaviour is another one.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"${PYTHON:-python3}" -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --disable-pip-version-check gym-pusht==0.1.8 gymnasium==1.4.0
"$dir/venv/bin/python" - <<'PY'
import gym_pusht  # noqa: F401  registers the environment
import gymnasium
import numpy as np

env = gymnasium.make("gym_pusht/PushT-v0", obs_type="state", render_mode="rgb_array")
pictures = []
for _ in range(2):
    env.reset(seed=0)
    print("after reset:", env.unwrapped._last_action)
    pictures.append(env.render())
    env.step(np.array([100.0, 100.0], np.float32))
kept = env.unwrapped
env.reset(seed=0)
different = int((pictures[0] != pictures[1]).any(-1).sum())
print("pixels that differ between two resets with seed 0:", different)
assert np.array_equal(kept._last_action, [100, 100]) and different > 0
PY
