#!/bin/bash
# Meta-World 3.0.0 with gymnasium 1.4.0 and MuJoCo 3.3.7: reset(seed=...) ignores the seed. The positions of object and goal come
# from a generator that was seeded once, in gymnasium.make(..., seed=...).
# Seen: two resets of one environment with seed 5 give other goals, and environments that were made with the same seed give the
# same goals for different seeds of reset.
# packaging is installed as well, because gymnasium needs it for MuJoCo and Meta-World does not require it.
# Fails if the behaviour is another one.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"${PYTHON:-python3}" -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --disable-pip-version-check metaworld==3.0.0 gymnasium==1.4.0 mujoco==3.3.7 packaging==26.4
"$dir/venv/bin/python" -W ignore - <<'PY'
import gymnasium
import metaworld  # noqa: F401  registers the environments
import numpy as np


def goals(seeds):
    env = gymnasium.make("Meta-World/MT1", env_name="reach-v3", seed=1)
    found = []
    for seed in seeds:
        env.reset(seed=seed)
        found.append(env.unwrapped._target_pos.copy())
    env.close()
    return np.array(found)


same, other = goals([5, 5]), goals([7, 8])
print("goals after two resets with seed 5:", same.round(3).tolist())
print("goals after resets with seeds 7 and 8:", other.round(3).tolist())
assert not np.allclose(same[0], same[1])
assert np.array_equal(same, other)
PY
