#!/usr/bin/env bash
# tiny-world-model: a small V-JEPA 2 trained on tabletop and on LIBERO's libero_object, and the same network
# with random weights as a floor, both as model files. Writes world.onnx and floor.onnx into the folder, and
# docs/results/tiny-world-model.md; the text below the page's line "## Observations and limits" is written by
# hand and stays. On two idle cores about 1 minute for tabletop's clips, 25 for libero_object's (estimate), and
# 0.5 to 1.2 s per step: 20 to 50 minutes for the 2500 steps. docs/results/weak.sh and rewards.sh use the files:
# WORLD=FILE,
# FLOOR=FILE. Run it again after an interruption to continue.
# Usage: docs/results/world.sh [STEPS] [RUN-FOLDER]
#
# LIBERO=0: without libero_object. SCALE=40: a fortieth of the episodes, to test the script.
#
# Fixed before any result was seen:
# - Clips: tabletop, 240 episodes each of the expert, the expert with noise 0.15, 0.3 and 0.6, and random
#   actions, every frame; libero_object, the three tasks of docs/results/rewards.sh, 48 episodes each of the
#   expert, the expert with noise 0.1, 0.3 and 0.6, and random actions, every 4th frame, at most 180 steps,
#   without multisampling. Seed 0, the train side of the start states: rewards.sh scores rollouts of the test
#   side, so the model has not seen the scored clips (an expert without noise acts the same from the same start
#   state). No actor fails on purpose, because rewards.sh scores these kinds of failure too.
# - Network: 4 layers of 96, 16 frames of 64 pixels, 0.5 M parameters; batch 16; all other settings are the
#   program's defaults. No label is used.
# - The last state is used, whatever its loss. The floor is the same network with the initial weights of the
#   seed.
set -euo pipefail
cd "$(dirname "$0")/../.."
steps=${1:-2500} runs=${2:-runs/world} libero=${LIBERO:-1} threads=${THREADS:-0} scale=${SCALE:-1}
go build -o bin/srpo ./cmd/srpo
mkdir -p "$runs"
episodes() { echo $((($1 + scale - 1) / scale)); }
clips=(--clips "$runs/tabletop")
bin/srpo record --seed 0 --set rollout.start_states=train --task 'tabletop/*' --actor expert --actor noise:0.15 \
  --actor noise:0.3 --actor noise:0.6 --actor random --episodes "$(episodes 240)" --set rollout.record_every=1 --out "$runs/tabletop" | tee "$runs/clips.txt"
if [ "$libero" != 0 ]; then
  bin/srpo record --seed 0 --set rollout.start_states=train --env libero --task 'libero_object/*alphabet_soup*' \
    --task 'libero_object/*bbq_sauce*' --task 'libero_object/*butter*' \
    --actor expert --actor noise:0.1 --actor noise:0.3 --actor noise:0.6 --actor random \
    --episodes "$(episodes 48)" --set rollout.record_every=4 --set rollout.max_steps=180 --set env.libero.multisample=0 \
    --out "$runs/libero" | tee -a "$runs/clips.txt"
  clips+=(--clips "$runs/libero")
fi
network=(--tubelet 4 --hidden 96 --layers 4 --heads 3 --predictor 48 --predictor-layers 2 --batch 16 --seed 0)
bin/srpo encoder train "${clips[@]}" --out "$runs/floor" "${network[@]}" --steps 0 --threads "$threads"
bin/srpo encoder train "${clips[@]}" --out "$runs/trained" "${network[@]}" --steps "$steps" --warmup $((steps / 12 + 1)) \
  --log $((steps / 20 + 1)) --threads "$threads" | tee "$runs/trained.txt"
bin/srpo encoder export vjepa2 --model "$runs/floor/checkpoint" --out "$runs/floor.onnx"
bin/srpo encoder export vjepa2 --model "$runs/trained/checkpoint" --out "$runs/world.onnx"

python3 - "$runs" "$(git rev-parse --short=10 HEAD)" "$(nproc --all)" "$steps" "$libero" "$scale" <<'PY'
import json, os, sys
from pathlib import Path

SEEN = "## Observations and limits"
runs, commit, cores, steps, libero, scale = sys.argv[1:]
more = "".join(f"{k}={v} " for k, v, d in (("LIBERO", libero, "1"), ("SCALE", scale, "1")) if v != d)
log = [json.loads(line) for line in open(os.path.join(runs, "trained", "log.jsonl"))]
rows = "\n".join(
    f"| {r['step']} | {r['loss']:.3f} | {r['held_out']:.3f} | {r['spread']:.3f} | {r['rank']:.1f} | {r['seconds']:.0f} |"
    for r in log
)
summary = next(line for line in open(os.path.join(runs, "trained.txt")) if " steps in " in line).strip()
page = Path("docs/results/tiny-world-model.md")
_, found, text = page.read_text().partition(SEEN) if page.exists() else ("", "", "")
page.write_text(f"""# tiny-world-model

**Question.** What does a small V-JEPA 2 learn from clips of tabletop and LIBERO in an hour on a CPU?

**Result.** {summary}.

Made by `{more}docs/results/world.sh {steps}` at commit {commit}, {cores} cores, seed 0. The head of the script lists what was
fixed before any result was seen. [rewards.md](rewards.md) compares its rewards with those of other encoders.

## Clips

```
{open(os.path.join(runs, 'clips.txt')).read()}```

## Training

*Spread* and *effective rank* are those of the embeddings of 64 held-out clips. Both fall when a network collapses.

| step | mean loss | loss on held-out clips | spread | effective rank | seconds |
| --- | --- | --- | --- | --- | --- |
{rows}
""" + (f"\n{found}{text}" if found else ""))
PY
