#!/usr/bin/env bash
# The default run (shorter), again and in other ways: the same numbers and the same weights? Usage: docs/results/same.sh [ITERATIONS] [RUN-FOLDER]; about a minute on two
# cores; writes docs/results/same.md, and ends with 1 where anything differs.
set -euo pipefail
cd "$(dirname "$0")/../.."
iterations=${1:-5} runs=${2:-$(mktemp -d)}
go build -o bin/srpo ./cmd/srpo
mkdir -p "$runs"
way() { # way NAME ARGUMENTS...
  local out=$runs/$1
  shift
  rm -rf "$out"
  bin/srpo run --out "$out" --iterations "$iterations" "$@"
}
way "default"
way "default again"
way "1 lane" --lanes 1
way "4 lanes" --lanes 4
way "no shared memory" --arena off
way "1 lane, no shared memory" --lanes 1 --arena off
way "stopped and resumed" --iterations $((iterations / 2))
bin/srpo run --resume "$runs/stopped and resumed" --iterations "$iterations"
GOMAXPROCS=1 way "one processor"
python3 - "$runs" "$iterations" <<'PYTHON'
import json, subprocess, sys
from pathlib import Path

runs, last = Path(sys.argv[1]), int(sys.argv[2])
# What the machine and the way there change: time, and how calls were batched.
machine = ("seconds", "lane_utilisation", "act_batch", "faults")


def numbers(run):
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if not any(m in k for m in machine)} for row in rows]


def sums(run):
    return json.loads((run / f"checkpoints/{last:06d}/MANIFEST").read_text().splitlines()[0])["files"]


commit = subprocess.run(["git", "rev-parse", "--short=10", "HEAD"], capture_output=True, text=True).stdout.strip()
first, bad = runs / "default", 0
compared = len(numbers(first)[0])
out = ["# The same run in other ways", "",
       f"Made by `docs/results/same.sh {last}` at commit {commit}, seed 0: the built-in default (tabletop, tiny, pixel, zscore) for {last} iterations. Every number of",
       f"metrics.jsonl that does not say something of the machine ({compared} an iteration) and every file of the last checkpoint, compared with the first row's.", "",
       "| way | numbers that differ | files that differ | success, last iteration |", "|---|---|---|---|"]  # fmt: skip
for way in ["default", "default again", "1 lane", "4 lanes", "no shared memory", "1 lane, no shared memory", "stopped and resumed", "one processor"]:
    rows, files = numbers(runs / way), sums(runs / way)
    assert len(rows) == last and set(files) == set(sums(first))
    wrong = sum(a[k] != b.get(k) for a, b in zip(numbers(first), rows) for k in a)
    other = sum(files[f] != s for f, s in sums(first).items())
    bad += wrong + other
    out.append(f"| {way} | {wrong} of {last * compared} | {other} of {len(files)} | {100 * rows[-1]['success_rate']:.1f} % |")
Path("docs/results/same.md").write_text("\n".join(out) + "\n")
print("\n".join(out[5:]))
sys.exit(bad > 0)
PYTHON
