"""Steps one lane of LIBERO on request, so that several processes can step at the same time.

    python libero_lane.py plugin|reference TASK STEPS CHUNK SIZE

Runs in the libero plugin's Python environment, with its package on PYTHONPATH. Prints {"ready": true}. For each line
that it reads, it runs an episode as the package's bench.py does and prints {"seconds": time of all steps}. The plugin's
lane renders at the end of each chunk, the unmodified OffScreenRenderEnv (reference) at every step.
"""

import json
import os
import sys

import locations

locations.redirect_writes()

import rollout  # noqa: E402


def main() -> None:
    # Replies go to a copy of stdout; what libraries print goes to stderr.
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    side, task = sys.argv[1], sys.argv[2]
    steps, chunk, size = (int(a) for a in sys.argv[3:6])
    actions = rollout.random_actions(steps)
    lane = None
    if side == "plugin":
        lane = rollout.lane(size)
        rollout.by_lane(lane, task, 0, actions[:chunk], ["agentview"], chunk)  # warm-up
    print(json.dumps({"ready": True}), file=replies, flush=True)
    for _ in sys.stdin:
        if lane is not None:
            done = rollout.by_lane(lane, task, 0, actions, ["agentview"], chunk)
        else:
            done = rollout.by_reference(task, 0, actions, ["agentview"], size)
        print(json.dumps({"seconds": float(done["seconds"])}), file=replies, flush=True)
    if lane is not None:
        lane.close()


if __name__ == "__main__":
    main()
