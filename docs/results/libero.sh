#!/usr/bin/env bash
# SRPO (zscore, pixel) against GRPO (0/1 reward) on LIBERO's libero_object, from one scripted demonstration, on
# the CPU. Writes docs/results/libero.md and a page per task, again after each seed. About 8 minutes per run on
# two idle cores, 14 runs and as many evaluations. Run it again after an interruption to continue.
# Usage: docs/results/libero.sh [SEEDS] [ITERATIONS] [RUN-FOLDER] [TASK...]
#
# Fixed before any result of these settings was seen:
# - Tasks 0 (alphabet soup, at a fixed position) and 6 (butter, whose position varies by 1 cm). Episodes of at
#   most 180 steps. 4 groups of 6 rollouts per iteration. All groups are kept (no dynamic sampling), so that
#   both rewards cost the same number of episodes.
# - The run's seed draws half of the 50 start states for training. All 50 are evaluated greedily before and
#   after, and reported by side.
# - Each task has one start, and the start must be weak: 100, 90, 80, 70, 60, 125 steps of imitation of one
#   demonstration (seed 0) are tried in this order. The first one is used whose sampled policy succeeds in 10 to
#   50 % of 16 episodes on the train side of seed 0. A task without such a start is reported and left out.
# - The update and the noise have their defaults, which were chosen on tabletop and on the bbq sauce, not on
#   these tasks.
# - Frames without multisampling and with coarser meshes (mesh_cell_mm = 4; physics and success are LIBERO's
#   own). Rendering then takes a quarter of the time.
# - With the first seed also: zscore on clips whose last frame is repeated up to the maximum length
#   (equal_length = hold), so that the length carries no information.
# - A control with the first seed sees no image (policy.tiny.image = false) and is otherwise the same.
#
# Earlier versions of this rule, and what changed because of them:
# - 16 episodes per iteration and independent noise per step went from 50 % to 75 % in 5 iterations and back to
#   55 % in 10 (alphabet soup, seed 0; greedy 28/50 before, 37/50 after). Now one noise is drawn per chunk.
# - Starts chosen by the size of the augmentation succeeded in 0 of 16 or in 16 of 16. Now they are chosen by
#   the steps of imitation. Of these, 100, 60, 30, 150, 15 were tried first. With alphabet soup, seed 0, they
#   gave 11, 0, 0, 12, 0 of 16, so the list got its present values before any training.
# - One run of 32 episodes per iteration with 4 epochs of mini-batches of 256 chunks and the published clip
#   (0.2, 0.28) then went from 47 % to 69 % (10 iterations, zscore; greedy on the train side 10/25 before, 23/25
#   after). On tabletop most of such steps are noise (docs/results/tiny-settings.md), and 2 epochs of whole
#   batches are the default now.
# - With these and the noise of tabletop (std 0.018) the present rule was started once: alphabet soup, seed 0,
#   10 iterations: 46 % to 50 % with either reward (greedy, zscore: 22/50 before, 30/50 after). Measurements on
#   the bbq sauce then showed that with so little noise the start state decides how an episode ends
#   (docs/results/libero-noise.md). Noise and steps of such arms are larger now, and the study started again.
# - With std 0.07 and lr 8e-4 alphabet soup fell from 25 % to 8 % in 3 iterations. With 0.035 and 4e-4 (now the
#   defaults; bbq sauce: 29 % to 88 % in 7) it stayed between 21 and 62 % for 8. These runs of alphabet soup
#   were seen while the defaults were chosen; butter was not.
# - A start for each seed, and LIBERO's full frames, would have taken 4 hours here.
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
  --set env.libero.mesh_cell_mm=4 --set rollout.groups=4 --set rollout.group_size=6 --set rollout.extra_groups=0
  --set rollout.keep_low=0 --set rollout.keep_high=1 --set run.videos=4 --set run.eval_every=0)

rate() { python3 -c 'import json,sys; print(json.load(open(sys.argv[1]))["all"]["success_rate"])' "$1/results.json"; }

train() { # train NAME CHECKPOINT SEED TASK ARGUMENTS...: a run, and a greedy evaluation of each side
  local out=$runs/$1 from=$2 seed=$3 task=$4
  shift 4
  if [ -e "$out/manifest.json" ]; then
    bin/srpo run --resume "$out"
  else
    bin/srpo run "${common[@]}" --task "$task" --seed "$seed" --checkpoint "$from" --iterations "$iterations" \
      --out "$out" "$@"
  fi
  for side in train test; do
    bin/srpo eval --checkpoint "$out" --states "$side" --out "$out-$side" --lanes 2
  done
}

page_head() { # page_head TASK: the top of the task's page
  cat <<EOF
# SRPO and GRPO on LIBERO: ${1//_/ }

**Question.** Does the SRPO reward improve sampled success on ${1//_/ } faster than a 0/1 reward (GRPO)?

**Result.** Sampled success, $(grep -m1 -oP '^- \Kmean over the iterations: .*' "docs/results/libero-$1.md").

Made by \`docs/results/libero.sh\` at commit $(cat "$runs/commit"). [libero.md](libero.md) has the greedy success, the limits
and the settings.

EOF
}

pages() { # writes the pages with the seeds that are complete
  for task in "${tasks[@]}"; do
    bin/srpo report --title "libero_object ${task//_/ } from one demonstration" --out "docs/results/libero-$task" \
      --compare "SRPO (zscore, pixel)=$runs/$task-zscore-[0-9]" --compare "GRPO (0/1 reward)=$runs/$task-binary-[0-9]"
    page_head "$task" | cat - "docs/results/libero-$task.md" >"$runs/page.tmp"
    mv "$runs/page.tmp" "docs/results/libero-$task.md"
  done
  python3 docs/results/libero.py "$runs" "${tasks[@]}"
}

for task in "${tasks[@]}"; do # the start of each task
  pattern="libero_object/*${task}*"
  for steps in 100 90 80 70 60 125; do
    [ ! -e "$runs/$task-steps" ] || break
    sft=$runs/$task-sft-$steps
    [ -e "$sft/checkpoints/000000" ] || bin/srpo imitate "${common[@]}" --task "$pattern" --seed 0 \
      --set policy.tiny.imitate_steps=$steps --out "$sft"
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

for task in "${tasks[@]}"; do # with the first seed: clips of equal length, and the control
  [ -e "$runs/$task-steps" ] || continue
  train "$task-hold-0" "$runs/$task-sft-$(cat "$runs/$task-steps")" 0 "libero_object/*${task}*" --reward zscore --set rollout.equal_length=hold
  steps=$(cat "$runs/$task-steps") pattern="libero_object/*${task}*" blind=$runs/$task-sft-blind-0
  [ -e "$blind/checkpoints/000000" ] || bin/srpo imitate "${common[@]}" --task "$pattern" --seed 0 --set policy.tiny.imitate_steps="$steps" \
    --set policy.tiny.image=false --out "$blind"
  train "$task-blind-0" "$blind" 0 "$pattern" --set policy.tiny.image=false
done
python3 docs/results/libero.py "$runs" "${tasks[@]}"
