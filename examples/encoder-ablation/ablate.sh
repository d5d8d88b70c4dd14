#!/usr/bin/env bash
# Compares encoders as the reward. It trains the same one-demonstration policy with each encoder and with the 0/1 reward (GRPO), and draws
# the curves into one plot. Only the reward differs: policy, seeds and start states are the same.
#
#   examples/encoder-ablation/ablate.sh [FOLDER] [SETTINGS of srpo run...]
#   SEEDS=3 ENCODERS="pixel generic" examples/encoder-ablation/ablate.sh ablation --env tabletop --set run.iterations=20
#
# ENCODERS lists encoder plugins: names, or folders of yours (./my-encoder). srpo must be on PATH or in SRPO_PROGRAM. Run it again to
# continue after an interruption.
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
