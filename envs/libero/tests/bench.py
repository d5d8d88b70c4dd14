"""Print steps per second of this plugin's lane and of the unmodified OffScreenRenderEnv, one process each, as JSON.

    python tests/bench.py [--task ID] [--chunk 8] [--steps 96] [--size 256] [--cameras agentview]

Both execute the same actions from the same start state. The lane renders at the end of each chunk, as for a policy and
a recording with ``record_every = chunk``. The reference always renders at every step. bit_equal: joint positions,
velocities, proprio, success and all rendered frames are bit-identical. cpu_ratio compares processor time, which depends
less on other programs than the wall-clock time.
"""

from __future__ import annotations

import argparse
import json
import os

import paths  # noqa: F401  first: it sets the import path and redirects the libraries' writes

# isort: split

import libero_rollout
from libero_sim.testing import rollout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", default="libero_object/pick_up_the_alphabet_soup_and_place_it_in_the_basket")
    parser.add_argument("--chunk", type=int, default=8)
    parser.add_argument("--steps", type=int, default=96)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--cameras", default="agentview", help="comma-separated: agentview, wrist")
    options = parser.parse_args()
    cameras = options.cameras.split(",")
    actions = rollout.random_actions(options.steps)
    env = libero_rollout.lane(options.size)
    rollout.by_lane(env, options.task, 0, actions[: options.chunk], cameras, options.chunk)  # compile, load
    before = os.getloadavg()[0]
    ours = rollout.by_lane(env, options.task, 0, actions, cameras, options.chunk)
    env.close()
    reference = libero_rollout.by_reference(options.task, 0, actions, cameras, options.size)
    differing = rollout.differences(ours, reference, cameras)
    cpu, reference_cpu = ours["cpu_seconds"], float(reference["cpu_seconds"])
    speed, reference_speed = options.steps / ours["seconds"], options.steps / float(reference["seconds"])
    result = {
        "ours": round(speed, 1),
        "reference": round(reference_speed, 1),
        "ratio": round(speed / reference_speed, 2),
        "cpu_ratio": round(reference_cpu / cpu, 2),
        "bit_equal": not differing,
        "unit": "env steps per second, one process",
        "differing": differing,
        "load": [round(before, 1), round(os.getloadavg()[0], 1)],
        **vars(options),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
