"""One lane of LIBERO that steps when it is told to, so that several processes step at the same time.

    python libero_lane.py ours|reference TASK STEPS CHUNK SIZE

Runs in the libero plugin's Python environment, with its package on PYTHONPATH. Says {"ready": true} and then, for each
line that it reads, rolls out as the package's bench.py does and answers {"seconds": seconds of all steps}: by the
plugin's lane, rendering at the end of each chunk, or by the unmodified OffScreenRenderEnv, rendering at every step.
"""

import json
import os
import sys

import locations

locations.redirect_writes()

import rollout  # noqa: E402


def main() -> None:
    # What the libraries print must not come between the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    side, task = sys.argv[1], sys.argv[2]
    steps, chunk, size = (int(a) for a in sys.argv[3:6])
    actions = rollout.random_actions(steps)
    lane = None
    if side == "ours":
        lane = rollout.lane(size)
        rollout.by_lane(lane, task, 0, actions[:chunk], ["agentview"], chunk)  # compile, upload
    print(json.dumps({"ready": True}), file=answers, flush=True)
    for _ in sys.stdin:
        if lane is not None:
            done = rollout.by_lane(lane, task, 0, actions, ["agentview"], chunk)
        else:
            done = rollout.by_reference(task, 0, actions, ["agentview"], size)
        print(json.dumps({"seconds": float(done["seconds"])}), file=answers, flush=True)
    if lane is not None:
        lane.close()


if __name__ == "__main__":
    main()
