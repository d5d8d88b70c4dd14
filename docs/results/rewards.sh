#!/usr/bin/env bash
# Reward quality on LIBERO rollouts: successes and failures of known kinds, scored with pixel, generic, the tiny
# world model and the same network with random weights. Writes docs/results/rewards.md, rewards-*.svg and
# rewards-fooled.jpg. docs/results/world.sh makes the two model files; without them these two encoders are left
# out. On two idle cores about 35 minutes for the rollouts and 15 for the scores (estimates). Run it again after
# an interruption to continue.
# Usage: WORLD=FILE FLOOR=FILE docs/results/rewards.sh [RUN-FOLDER]
#
# ENV=tabletop: the same on tabletop, in minutes. SCALE=10: a tenth of the episodes. PAGE=PREFIX: writes to
#   other files.
#
# Fixed before any result was seen:
# - Three tasks of libero_object: alphabet soup, bbq sauce, butter; LIBERO's own frames (256 x 256,
#   multisampling, full meshes), every 4th; at most 180 steps; seed 0.
# - The test side of the start states of seed 0. docs/results/world.sh trains on the train side.
# - Per task 24 episodes of the expert and 16 of the expert with noise 0.1 (at least 30 successes are required);
#   10 each of the expert that misses the object, drops it half way, takes another one, and stops with the
#   object lifted (at least 30 failures are required); and 10 of the expert with noise 0.5, with either outcome.
#   All use the same start states.
# - Each episode counts with the label of the simulator, including one that should fail and succeeded.
# - Reward zscore, clusters auto, references of the batch; encoders with their default settings. The measures
#   are computed on clips as recorded and on clips of equal length, because a success ends early.
# - True progress: progress, at the end of the episode, and furthest, its maximum, by the env's own scale of
#   phases and distances (envs/libero/README.md). They differ when an object falls.
# - The failures that an encoder confuses with successes are those nearer to the centres than at least one
#   success. The four nearest are shown; if there are none, the four with the highest reward.
set -euo pipefail
cd "$(dirname "$0")/../.."
env=${ENV:-libero} scale=${SCALE:-1} page=${PAGE:-docs/results/rewards} runs=${1:-runs/rewards-$env} world=${WORLD:-} floor=${FLOOR:-}
go build -o bin/srpo ./cmd/srpo
mkdir -p "$runs"
case $env in
  libero)
    common=(--env libero --set rollout.max_steps=180 --task 'libero_object/*alphabet_soup*' --task 'libero_object/*bbq_sauce*'
      --task 'libero_object/*butter*')
    ;;
  tabletop) common=(--env tabletop --task 'tabletop/*') ;;
  *) echo "unknown ENV $env: use libero or tabletop" >&2 && exit 2 ;;
esac
common+=(--seed 0 --set rollout.start_states=test --set rollout.record_every=4 --out "$runs/rollouts")
episodes() { echo $((3 * (($1 + scale - 1) / scale))); } # both envs have three tasks
bin/srpo record "${common[@]}" --actor expert --episodes "$(episodes 24)"
bin/srpo record "${common[@]}" --actor noise:0.1 --episodes "$(episodes 16)"
bin/srpo record "${common[@]}" --actor fail:miss --actor fail:drop --actor fail:wrong --actor fail:stall --actor noise:0.5 \
  --episodes "$(episodes 10)"

encoders=pixel,generic
[ -z "$world" ] || encoders+=",tiny world model=vjepa2:model=$world"
[ -z "$floor" ] || encoders+=",random V-JEPA 2=vjepa2:model=$floor"
bin/srpo reward "$runs/rollouts" --compare "$encoders" --out "$runs/page" >"$runs/table.txt"
python=$(bin/srpo encoder install --json | python3 -c 'import json, sys; print(json.load(sys.stdin)["python"])') # has NumPy and Pillow
"$python" -B docs/results/rewards.py "$runs" "$page" \
  "${WORLD:+WORLD=... }${FLOOR:+FLOOR=... }${ENV:+ENV=$ENV }${SCALE:+SCALE=$SCALE }docs/results/rewards.sh"
echo "wrote $page.md; the full page with videos: $runs/page/index.html"
