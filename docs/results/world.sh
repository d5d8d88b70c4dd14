#!/usr/bin/env bash
# tiny-world-model: a small V-JEPA 2 trained on tabletop and LIBERO's libero_object, and the same network with random weights as a floor, both as model files.
# Usage: docs/results/world.sh [STEPS] [RUN-FOLDER]; a stopped script goes on where it was; writes world.onnx and floor.onnx into the folder, and
# docs/results/tiny-world-model.md. LIBERO=0 leaves libero_object out. On two idle cores about 1 minute for tabletop's clips, 25 for libero_object's (estimate), and
# 0.5 to 1.2 s a step: 20 to 50 minutes for the 2500 steps. docs/results/weak.sh and rewards.sh take the files: WORLD=FILE, FLOOR=FILE.
#
# Fixed before any result was seen:
# - clips: tabletop, 240 episodes each of the expert, the expert with noise 0.15, 0.3 and 0.6, and random actions, every frame; libero_object, the three tasks of
#   docs/results/rewards.sh, 48 episodes each of the expert, the expert with noise 0.1, 0.3 and 0.6, and random actions, every 4th frame, at most 180 steps, without
#   multisampling. Seed 0, the train side of the start states: rewards.sh judges rollouts from the test side, so no film that is judged was learned from (an expert
#   without noise does the same from the same start state). None fails on purpose: those ways to fail are judged, too;
# - network: 4 layers of 96, 16 frames of 64 pixels, 0.5 M parameters; batch 16; everything else the program's default; no label is used;
# - the last state counts, whatever its loss; the floor is the same network with the seed's weights as drawn.
set -euo pipefail
cd "$(dirname "$0")/../.."
steps=${1:-2500} runs=${2:-runs/world} libero=${LIBERO:-1} threads=${THREADS:-0} scale=${SCALE:-1}
go build -o bin/srpo ./cmd/srpo
mkdir -p "$runs"
episodes() { echo $((($1 + scale - 1) / scale)); } # SCALE=40 makes it small, to see that it works
clips=(--clips "$runs/tabletop")
bin/srpo record --seed 0 --set rollout.start_states=train --task 'tabletop/*' --actor expert --actor noise:0.15 --actor noise:0.3 --actor noise:0.6 --actor random \
  --episodes "$(episodes 240)" --set rollout.record_every=1 --out "$runs/tabletop" | tee "$runs/clips.txt"
if [ "$libero" != 0 ]; then
  bin/srpo record --seed 0 --set rollout.start_states=train --env libero --task 'libero_object/*alphabet_soup*' --task 'libero_object/*bbq_sauce*' --task 'libero_object/*butter*' \
    --actor expert --actor noise:0.1 --actor noise:0.3 --actor noise:0.6 --actor random \
    --episodes "$(episodes 48)" --set rollout.record_every=4 --set rollout.max_steps=180 --set env.libero.multisample=0 --out "$runs/libero" | tee -a "$runs/clips.txt"
  clips+=(--clips "$runs/libero")
fi
network=(--tubelet 4 --hidden 96 --layers 4 --heads 3 --predictor 48 --predictor-layers 2 --batch 16 --seed 0)
bin/srpo encoder train "${clips[@]}" --out "$runs/floor" "${network[@]}" --steps 0 --threads "$threads"
bin/srpo encoder train "${clips[@]}" --out "$runs/trained" "${network[@]}" --steps "$steps" --warmup $((steps / 12 + 1)) --log $((steps / 20 + 1)) \
  --threads "$threads" | tee "$runs/trained.txt"
bin/srpo encoder export vjepa2 --model "$runs/floor/checkpoint" --out "$runs/floor.onnx"
bin/srpo encoder export vjepa2 --model "$runs/trained/checkpoint" --out "$runs/world.onnx"

python3 - "$runs" "$(git rev-parse --short=10 HEAD)" "$(nproc --all)" "$steps" "$libero" "$scale" >docs/results/tiny-world-model.tmp <<'PY'
import json, os, sys

runs, commit, cores, steps, libero, scale = sys.argv[1:]
more = "".join(f"{k}={v} " for k, v, d in (("LIBERO", libero, "1"), ("SCALE", scale, "1")) if v != d)
print(f"# tiny-world-model\n\nMade by `{more}docs/results/world.sh {steps}` at commit {commit}, {cores} cores, seed 0; the script's head says what was fixed before.")
print(f"Its rewards beside those of other encoders are in [rewards.md](rewards.md).\n\n## Clips\n\n```\n{open(os.path.join(runs, 'clips.txt')).read()}```\n")
print("## Training\n\n`spread` and effective `rank` are those of the embeddings of 64 stretches held out: both fall when a network collapses.\n")
print("| step | loss, mean | loss on clips held out | spread | effective rank | seconds |\n| --- | --- | --- | --- | --- | --- |")
for line in open(os.path.join(runs, "trained", "log.jsonl")):
    r = json.loads(line)
    print(f"| {r['step']} | {r['loss']:.3f} | {r['held_out']:.3f} | {r['spread']:.3f} | {r['rank']:.1f} | {r['seconds']:.0f} |")
print("\n" + next(line for line in open(os.path.join(runs, "trained.txt")) if " steps in " in line).strip() + ".")
PY
mv docs/results/tiny-world-model.tmp docs/results/tiny-world-model.md
