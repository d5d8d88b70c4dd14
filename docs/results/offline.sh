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
python3 - "$runs" "$seeds" "$episodes" "$trials" > docs/results/offline.tmp << 'PAGE'
import json, subprocess, sys
runs, seeds, episodes, trials = sys.argv[1], *map(int, sys.argv[2:])
rows = [("sft", "before: one-shot SFT"), ("progress", "progress (the paper's recipe)"), ("task-scale", "progress, curves scaled by task"),
        ("uniform", "uniform (control)"), ("success", "success (filtered cloning, control)")]
rate = lambda name, s: json.load(open(f"{runs}/{name}-{s}.json"))["all"]["success_rate"]
data = [sum(json.loads(line)["success"] for line in open(f"{runs}/attempts-{s}/labels.jsonl")) / episodes for s in range(seeds)]
commit = subprocess.run(["git", "rev-parse", "--short=10", "HEAD"], capture_output=True, text=True).stdout.strip()
print(f"""# Learning offline on tabletop

Made by `docs/results/offline.sh {seeds} {episodes}` at commit {commit}, {trials} greedy episodes an evaluation, the same for all rows of a seed; 600 gradient
steps, learning rate 1e-3. Each regression starts from the seed's one-shot SFT policy and learns from {episodes} sampled episodes of it, of which
{", ".join(f"{100 * d:.0f} %" for d in data)} succeeded. Progress curves by `pixel`.

| weights | {" | ".join(f"seed {s}" for s in range(seeds))} | mean | change |
|---|{"---|" * seeds}---|---|""")
before = [rate("sft", s) for s in range(seeds)]
for name, title in rows:
    r = [rate(name, s) for s in range(seeds)]
    change = sum(x - b for x, b in zip(r, before)) / seeds
    print(f"| {title} | {' | '.join(f'{100 * x:.0f} %' for x in r)} | {100 * sum(r) / seeds:.1f} % | {'' if name == 'sft' else f'{100 * change:+.1f}'} |")
PAGE
mv docs/results/offline.tmp docs/results/offline.md
