#!/usr/bin/env bash
# SRPO (zscore, pixel) against GRPO (0/1 reward) on real LIBERO, libero_object, from one scripted demonstration; everything on the CPU.
# Usage: docs/results/libero.sh [SEEDS] [ITERATIONS] [RUN-FOLDER] [TASK...]; about 6 minutes a run on two idle cores; a stopped script goes on where it was.
#
# Fixed before any learning was seen:
# - tasks 0 (alphabet soup, its place is fixed) and 6 (butter, moves by 1 cm); episodes of at most 180 steps; 4 groups of 4 rollouts an iteration;
# - half of the 50 start states, drawn by seed, train; all 50 are evaluated, greedy, before and after, and reported by side;
# - the start must be weak: of the shifts 0.004, 0.002, 0.006, 0.001, 0.008 of imitation's corrective augmentation, tried in this order, the first is taken
#   with which the sampled one-demonstration policy succeeds in 10 to 50 % of 16 episodes on the train side; a seed with none is reported and left out;
# - the control sees no image (policy.tiny.image = false), else the same.
# A first version tried 0.015, 0.02, 0.01, 0.03 with imitation as it was then, and found no start: 0 of 16 with each. Imitation has since learned to ignore the
# wrist's angles and to correct shifts linearly (policies/tiny); with the default shift, 0.015, it now succeeds in 16 of 16 on both tasks.
set -euo pipefail
cd "$(dirname "$0")/../.."
seeds=${1:-3} iterations=${2:-10} runs=${3:-runs/libero}
shift $(($# < 3 ? $# : 3))
tasks=("$@")
[ ${#tasks[@]} -gt 0 ] || tasks=(alphabet_soup butter)
go build -o bin/srpo ./cmd/srpo
mkdir -p "$runs"
common=(--env libero --lanes 2 --set rollout.max_steps=180 --set rollout.start_states=train --set rollout.record_every=8
  --set rollout.groups=4 --set rollout.group_size=4 --set run.videos=4)

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

for task in "${tasks[@]}"; do
  pattern="libero_object/*${task}*"
  for ((s = 0; s < seeds; s++)); do
    start=
    for by in 0.004 0.002 0.006 0.001 0.008; do
      sft=$runs/$task-sft-$s-$by
      [ -e "$sft/checkpoints/000000" ] || bin/srpo imitate "${common[@]}" --task "$pattern" --seed "$s" --set policy.tiny.shift=$by --out "$sft"
      bin/srpo eval --checkpoint "$sft" --states train --episodes 16 --sample --out "$sft-sampled" --lanes 2
      if python3 -c "import sys; sys.exit(not 0.1 <= $(rate "$sft-sampled") <= 0.5)"; then
        start=$sft shift_by=$by
        break
      fi
    done
    if [ -z "$start" ]; then
      echo "$task seed $s: no start between 10 and 50 %" | tee -a "$runs/left-out.txt"
      continue
    fi
    for side in train test; do
      bin/srpo eval --checkpoint "$start" --states "$side" --out "$start-$side" --lanes 2
    done
    for reward in zscore binary; do
      train "$task-$reward-$s" "$start" "$s" "$pattern" --reward "$reward" --set policy.tiny.shift="$shift_by"
    done
    [ "$s" != 0 ] || echo "$shift_by" >"$runs/$task-shift-0"
  done
  bin/srpo report --title "libero_object ${task//_/ } from one demonstration, $seeds seeds" --out "docs/results/libero-$task" \
    --compare "SRPO (zscore, pixel)=$runs/$task-zscore-[0-9]" --compare "GRPO (0/1 reward)=$runs/$task-binary-[0-9]"
done

for task in "${tasks[@]}"; do # the control, with the first seed's start
  [ -e "$runs/$task-shift-0" ] || continue
  shift_by=$(cat "$runs/$task-shift-0") pattern="libero_object/*${task}*" blind=$runs/$task-sft-blind-0
  [ -e "$blind/checkpoints/000000" ] || bin/srpo imitate "${common[@]}" --task "$pattern" --seed 0 --set policy.tiny.shift="$shift_by" \
    --set policy.tiny.image=false --out "$blind"
  train "$task-blind-0" "$blind" 0 "$pattern" --set policy.tiny.image=false
done
