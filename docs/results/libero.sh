#!/usr/bin/env bash
# SRPO (zscore, pixel) against GRPO (0/1 reward) on real LIBERO, libero_object, from one scripted demonstration; everything on the CPU.
# Usage: docs/results/libero.sh [SEEDS] [ITERATIONS] [RUN-FOLDER] [TASK...]; about 8 minutes a run on two idle cores, 14 runs and as many evaluations in all; a stopped
# script goes on where it was, and the pages are written anew after each seed.
#
# Fixed before any result of these settings was seen:
# - tasks 0 (alphabet soup, its place is fixed) and 6 (butter, moves by 1 cm); episodes of at most 180 steps; 4 groups of 6 rollouts an iteration, all of them kept
#   (no dynamic sampling), so that both rewards cost the same number of episodes;
# - half of the 50 start states, drawn by the run's seed, train; all 50 are evaluated, greedy, before and after, and reported by side;
# - one start a task, and it must be weak: of 100, 90, 80, 70, 60, 125 steps of imitation of one demonstration (seed 0), tried in this order, the first is taken with
#   which the sampled policy succeeds in 10 to 50 % of 16 episodes on the train side of seed 0; a task with none is reported and left out;
# - the update and the noise as they are by default, chosen on tabletop and on the bbq sauce, not here;
# - frames without multisampling and of coarser meshes (mesh_cell_mm = 4; physics and success are LIBERO's own): drawing takes a quarter of the time;
# - beside them, with the first seed: zscore on clips whose last frame is held to the most steps (equal_length = hold), so that length says nothing;
# - the control sees no image (policy.tiny.image = false), else the same.
#
# What earlier versions of this rule taught, and what was changed for it: 16 episodes an iteration and independent noise a step went from 50 % to 75 % in 5 iterations
# and back to 55 % in 10 (alphabet soup, seed 0; greedy 28/50 before, 37/50 after): now one draw of noise a chunk. Starts chosen by the size of the augmentation
# succeeded in 0 of 16 or in 16 of 16: now by the steps of imitation. Of those, 100, 60, 30, 150, 15 were tried first; with alphabet soup, seed 0, they gave
# 11, 0, 0, 12, 0 of 16, so the list got its present steps before anything was trained. One run of 32 episodes an iteration with 4 epochs of mini-batches of 256 chunks
# and the published clip (0.2, 0.28) then went from 47 % to 69 % (10 iterations, zscore; greedy on the train side 10/25 before, 23/25 after); on tabletop most of such
# steps are noise (docs/results/tiny-settings.md), and 2 epochs of whole batches are the default now. With these and the noise of tabletop (std 0.018) the present rule began once:
# alphabet soup, seed 0, 10 iterations: 46 % to 50 % with either reward (greedy, zscore: 22/50 before, 30/50 after). Found on the bbq sauce then: with so little noise a
# start state decides how an episode ends (docs/results/tiny-settings.md), so noise and steps of such arms are larger now, and the study began anew. With std 0.07 and lr 8e-4 alphabet soup fell from 25 % to
# 8 % in 3 iterations, with 0.035 and 4e-4 (now the defaults, bbq sauce: 29 % to 88 % in 7) it stayed between 21 and 62 % for 8: it was seen while they were chosen, butter was not. A start for each seed, and full detail, would have taken 4 hours here.
set -euo pipefail
cd "$(dirname "$0")/../.."
seeds=${1:-3} iterations=${2:-10} runs=${3:-runs/libero}
shift $(($# < 3 ? $# : 3))
tasks=("$@")
[ ${#tasks[@]} -gt 0 ] || tasks=(alphabet_soup butter)
go build -o bin/srpo ./cmd/srpo
mkdir -p "$runs"
[ -e "$runs/commit" ] || git rev-parse --short=10 HEAD >"$runs/commit"
common=(--env libero --lanes 2 --set rollout.max_steps=180 --set rollout.start_states=train --set env.libero.multisample=0
  --set env.libero.mesh_cell_mm=4 --set rollout.groups=4 --set rollout.group_size=6 --set rollout.extra_groups=0 --set rollout.keep_low=0 --set rollout.keep_high=1 --set run.videos=4 --set run.eval_every=0)

rate() { python3 -c 'import json,sys; print(json.load(open(sys.argv[1]))["all"]["success_rate"])' "$1/results.json"; }

train() { # train NAME CHECKPOINT SEED TASK ARGUMENTS...: a run, and greedy evaluations of both sides before and after
  local out=$runs/$1 from=$2 seed=$3 task=$4
  shift 4
  if [ -e "$out/manifest.json" ]; then
    bin/srpo run --resume "$out"
  else
    bin/srpo run "${common[@]}" --task "$task" --seed "$seed" --checkpoint "$from" --iterations "$iterations" --out "$out" "$@"
  fi
  for side in train test; do
    bin/srpo eval --checkpoint "$out" --states "$side" --out "$out-$side" --lanes 2
  done
}

pages() { # the curves of the seeds that are done
  for task in "${tasks[@]}"; do
    bin/srpo report --title "libero_object ${task//_/ } from one demonstration" --out "docs/results/libero-$task" \
      --compare "SRPO (zscore, pixel)=$runs/$task-zscore-[0-9]" --compare "GRPO (0/1 reward)=$runs/$task-binary-[0-9]"
    sed -i "1i # SRPO and GRPO on LIBERO: ${task//_/ }\n" "docs/results/libero-$task.md"
  done
  python3 docs/results/libero.py "$runs" "${tasks[@]}"
}

for task in "${tasks[@]}"; do # the start
  pattern="libero_object/*${task}*"
  for steps in 100 90 80 70 60 125; do
    [ ! -e "$runs/$task-steps" ] || break
    sft=$runs/$task-sft-$steps
    [ -e "$sft/checkpoints/000000" ] || bin/srpo imitate "${common[@]}" --task "$pattern" --seed 0 --set policy.tiny.imitate_steps=$steps --out "$sft"
    bin/srpo eval --checkpoint "$sft" --states train --episodes 16 --sample --out "$sft-sampled" --lanes 2
    if python3 -c "import sys; sys.exit(not 0.1 <= $(rate "$sft-sampled") <= 0.5)"; then
      for side in train test; do
        bin/srpo eval --checkpoint "$sft" --states "$side" --out "$sft-$side" --lanes 2
      done
      echo "$steps" >"$runs/$task-steps"
    fi
  done
  [ -e "$runs/$task-steps" ] || echo "$task: no start between 10 and 50 %" | tee -a "$runs/left-out.txt"
done

for ((s = 0; s < seeds; s++)); do
  for task in "${tasks[@]}"; do
    [ -e "$runs/$task-steps" ] || continue
    for reward in zscore binary; do
      train "$task-$reward-$s" "$runs/$task-sft-$(cat "$runs/$task-steps")" "$s" "libero_object/*${task}*" --reward "$reward"
    done
  done
  pages
done

for task in "${tasks[@]}"; do # clips of equal length, and the control, with the first seed
  [ -e "$runs/$task-steps" ] || continue
  train "$task-hold-0" "$runs/$task-sft-$(cat "$runs/$task-steps")" 0 "libero_object/*${task}*" --reward zscore --set rollout.equal_length=hold
  steps=$(cat "$runs/$task-steps") pattern="libero_object/*${task}*" blind=$runs/$task-sft-blind-0
  [ -e "$blind/checkpoints/000000" ] || bin/srpo imitate "${common[@]}" --task "$pattern" --seed 0 --set policy.tiny.imitate_steps="$steps" \
    --set policy.tiny.image=false --out "$blind"
  train "$task-blind-0" "$blind" 0 "$pattern" --set policy.tiny.image=false
done
python3 docs/results/libero.py "$runs" "${tasks[@]}"
