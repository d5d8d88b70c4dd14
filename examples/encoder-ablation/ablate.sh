#!/usr/bin/env bash
# Does the reward's encoder matter? The same one-demonstration policy is trained once with each encoder and once with the 0/1 reward (GRPO), and
# the curves are drawn over each other. Everything but the reward is the same: policy, seeds, start states.
#
#   examples/encoder-ablation/ablate.sh [FOLDER] [SETTINGS of srpo run...]
#   SEEDS=3 ENCODERS="pixel generic" examples/encoder-ablation/ablate.sh ablation --env tabletop --set run.iterations=20
#
# ENCODERS names encoder plugins, of srpo or your own folders (./my-encoder). srpo must be on PATH, or SRPO_PROGRAM name it. A stopped script goes on.
set -euo pipefail
srpo=${SRPO_PROGRAM:-srpo} out=${1:-ablation} seeds=${SEEDS:-3}
read -ra encoders <<<"${ENCODERS:-pixel generic}"
shift $(($# < 1 ? $# : 1))
mkdir -p "$out"

train() { # train FOLDER ARGUMENTS...
  if [ -e "$1/manifest.json" ]; then
    "$srpo" run --resume "$1"
  else
    "$srpo" run --out "$@"
  fi
}

curves=(--compare "0/1 reward=$out/binary-*")
for encoder in "${encoders[@]}"; do
  curves+=(--compare "$(basename "$encoder")=$out/$(basename "$encoder")-*")
done
for ((seed = 0; seed < seeds; seed++)); do
  start=$out/start-$seed
  [ -e "$start/checkpoints/000000" ] || "$srpo" imitate --seed "$seed" --out "$start" "$@"
  train "$out/binary-$seed" --seed "$seed" --checkpoint "$start" --reward binary "$@"
  for encoder in "${encoders[@]}"; do
    train "$out/$(basename "$encoder")-$seed" --seed "$seed" --checkpoint "$start" --encoder "$encoder" "$@"
  done
done
"$srpo" report --title "Success by iteration, by the reward's encoder" --out "$out/ablation" "${curves[@]}"
