#!/usr/bin/env bash
# Learning from recorded episodes on the built-in tabletop. For each seed: one policy from one demonstration
# (one-shot SFT), episodes of it, and from the same policy one offline regression with each kind of weights.
# Success is greedy, before and after. About 10 minutes per seed on two idle cores. Writes
# docs/results/offline.md; the text below its line "## Observations and limits" is written by hand and stays.
# Usage: docs/results/offline.sh [SEEDS] [EPISODES] [RUN-FOLDER]
set -euo pipefail
cd "$(dirname "$0")/../.."
seeds=${1:-3} episodes=${2:-200} runs=${3:-runs/offline} trials=${TRIALS:-100}
go build -o bin/srpo ./cmd/srpo
mkdir -p "$runs"
learn=(--set policy.tiny.imitate_lr=1e-3 --set imitate.steps=600 --set run.videos=0)
evaluate() { # evaluate POLICY: the same greedy episodes for all policies of a seed
  bin/srpo eval --seed "$s" --checkpoint "$runs/$1-$s" --episodes "$trials" --videos 0 --out "$runs/$1-$s-eval" --json \
    > "$runs/$1-$s.json"
}
for ((s = 0; s < seeds; s++)); do
  [ -e "$runs/sft-$s/checkpoints/000000" ] || bin/srpo imitate --seed "$s" --out "$runs/sft-$s"
  bin/srpo record --seed "$s" --actor policy --checkpoint "$runs/sft-$s" --episodes "$episodes" --trajectories \
    --out "$runs/attempts-$s"
  evaluate sft
  while read -r name options; do
    # shellcheck disable=SC2086
    [ -e "$runs/$name-$s/checkpoints/000001" ] || bin/srpo run --seed "$s" --offline "$runs/attempts-$s" \
      --checkpoint "$runs/sft-$s" --out "$runs/$name-$s" "${learn[@]}" $options
    evaluate "$name"
  done << 'CONDITIONS'
progress
task-scale --set offline.scale=task
uniform --set offline.weights=uniform
success --set offline.weights=success
CONDITIONS
done
python3 - "$runs" "$seeds" "$episodes" "$trials" << 'PAGE'
import json, subprocess, sys
from pathlib import Path

SEEN = "## Observations and limits"
runs, seeds, episodes, trials = sys.argv[1], *map(int, sys.argv[2:])
names = {
    "sft": "before: one-shot SFT",
    "progress": "progress (the paper's recipe)",
    "task-scale": "progress, curves scaled by task",
    "uniform": "uniform (control)",
    "success": "success (filtered cloning, control)",
}
rate = lambda name, s: json.load(open(f"{runs}/{name}-{s}.json"))["all"]["success_rate"]
labels = [[json.loads(line) for line in open(f"{runs}/attempts-{s}/labels.jsonl")] for s in range(seeds)]
data = [sum(label["success"] for label in each) / episodes for each in labels]
rates = {name: [rate(name, s) for s in range(seeds)] for name in names}
mean = {name: 100 * sum(r) / seeds for name, r in rates.items()}
change = {name: mean[name] - mean["sft"] for name in names}
commit = subprocess.run(["git", "rev-parse", "--short=10", "HEAD"], capture_output=True, text=True).stdout.strip()
rows = []
for name, title in names.items():
    cells = [title, *(f"{100 * x:.0f} %" for x in rates[name]), f"{mean[name]:.1f} %", f"{change[name]:+.1f}" if name != "sft" else ""]
    rows.append(f"| {' | '.join(cells)} |")
page = Path("docs/results/offline.md")
_, found, text = page.read_text().partition(SEEN) if page.exists() else ("", "", "")
page.write_text(f"""# Learning offline on tabletop

**Question.** Does a regression on recorded episodes, weighted by progress, improve the policy that recorded them?

**Result.** Greedy success changes by {change["progress"]:+.1f} points with weights by progress, and by {change["success"]:+.1f} points with the successes alone.

Made by `docs/results/offline.sh {seeds} {episodes}` at commit {commit}, seeds 0 to {seeds - 1}; {trials} greedy episodes per evaluation, the same for all
rows of a seed; 600 gradient steps, learning rate 1e-3. Each regression starts from the one-shot SFT policy of the seed and learns from
{episodes} sampled episodes of it, of which {", ".join(f"{100 * d:.0f} %" for d in data)} succeeded. Progress curves by `pixel`.

| weights | {" | ".join(f"seed {s}" for s in range(seeds))} | mean | change |
|---|{"---|" * seeds}---|---|
""" + "\n".join(rows) + "\n" + (f"\n{found}{text}" if found else ""))
PAGE
