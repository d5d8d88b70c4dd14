#!/usr/bin/env bash
# Learning from recorded episodes on the built-in tabletop: for each seed a one-shot SFT policy, episodes of it, and from the same policy one offline regression
# with each kind of weights; success is greedy, before and after. About 10 minutes a seed on two idle cores.
# Usage: docs/results/offline.sh [SEEDS] [EPISODES] [FOLDER]; writes docs/results/offline.md.
set -euo pipefail
cd "$(dirname "$0")/../.."
seeds=${1:-3} episodes=${2:-200} runs=${3:-runs/offline} trials=${TRIALS:-100}
go build -o bin/srpo ./cmd/srpo
mkdir -p "$runs"
learn=(--set policy.tiny.imitate_lr=1e-3 --set imitate.steps=600 --set run.videos=0)
evaluate() { # evaluate POLICY: the same greedy episodes for all of a seed
  bin/srpo eval --seed "$s" --checkpoint "$runs/$1-$s" --episodes "$trials" --videos 0 --out "$runs/$1-$s-eval" --json > "$runs/$1-$s.json"
}
for ((s = 0; s < seeds; s++)); do
  [ -e "$runs/sft-$s/checkpoints/000000" ] || bin/srpo imitate --seed "$s" --out "$runs/sft-$s"
  bin/srpo record --seed "$s" --actor policy --checkpoint "$runs/sft-$s" --episodes "$episodes" --trajectories --out "$runs/attempts-$s"
  evaluate sft
  while read -r name options; do
    # shellcheck disable=SC2086
    [ -e "$runs/$name-$s/checkpoints/000001" ] || bin/srpo run --seed "$s" --offline "$runs/attempts-$s" --checkpoint "$runs/sft-$s" --out "$runs/$name-$s" "${learn[@]}" $options
    evaluate "$name"
  done << 'CONDITIONS'
progress
task-scale --set offline.scale=task
uniform --set offline.weights=uniform
success --set offline.weights=success
CONDITIONS
done
python3 docs/results/offline.py "$runs" "$seeds" "$episodes" "$trials" > docs/results/offline.tmp
mv docs/results/offline.tmp docs/results/offline.md
