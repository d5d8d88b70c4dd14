#!/usr/bin/env bash
# SRPO against GRPO on the built-in tabletop. For each seed it trains one policy by imitation of one
# demonstration (one-shot SFT), and continues from this policy with each reward. About 2 minutes per seed on two
# idle cores. Writes docs/results/tabletop.{md,svg,html} and docs/img/learning-tabletop.svg.
# Usage: docs/results/tabletop.sh [SEEDS] [ITERATIONS] [RUN-FOLDER]
set -euo pipefail
cd "$(dirname "$0")/../.."
seeds=${1:-5} iterations=${2:-20} runs=${3:-runs/tabletop}
go build -o bin/srpo ./cmd/srpo
mkdir -p "$runs" docs/img
for ((s = 0; s < seeds; s++)); do
  [ -e "$runs/sft-$s/checkpoints/000000" ] || bin/srpo imitate --seed "$s" --out "$runs/sft-$s"
  for reward in zscore binary; do
    out=$runs/$reward-$s
    if [ -e "$out/manifest.json" ]; then
      bin/srpo run --resume "$out"
    else
      bin/srpo run --seed "$s" --checkpoint "$runs/sft-$s" --reward "$reward" --iterations "$iterations" --out "$out" \
        --set run.videos=0 --set run.eval_every=0
    fi
  done
done
bin/srpo report --title "tabletop/two_blocks from one demonstration, $seeds seeds" --out docs/results/tabletop \
  --compare "SRPO (zscore, pixel)=$runs/zscore-*" --compare "GRPO (0/1 reward)=$runs/binary-*"
{
  echo "# SRPO and GRPO on tabletop"
  echo
  echo "**Question.** Does the SRPO reward improve a policy faster than a 0/1 reward (GRPO) on the built-in env?"
  echo
  echo "**Result.** Sampled success, $(grep -m1 -oP '^- \Kmean over the iterations: .*' docs/results/tabletop.md)."
  echo
  echo "Made by \`docs/results/tabletop.sh $seeds $iterations\` at commit $(git rev-parse --short=10 HEAD), seeds 0 to $((seeds - 1)), $(nproc) cores."
  echo "In each seed both rewards start from the same one-shot SFT policy. Success is that of the sampled training episodes."
  echo
  cat docs/results/tabletop.md
  echo
  echo "## Limits"
  echo
  echo "The task is easy and the start succeeds often, so most groups contain a success and a 0/1 reward has a signal too."
  echo "[weak-answer.md](weak-answer.md) compares the rewards from weak starts."
} > docs/results/tabletop.tmp && mv docs/results/tabletop.tmp docs/results/tabletop.md
cp docs/results/tabletop.svg docs/img/learning-tabletop.svg
