#!/usr/bin/env bash
# Writes docs/results/same.md: executes the default run, shortened, in several ways and compares the numbers and
# the weights. Exits with 1 if anything differs. Takes about a minute on two cores.
# Usage: docs/results/same.sh [ITERATIONS] [RUN-FOLDER]
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
# Metrics that depend on the machine and the way: times, and how calls were batched.
machine = ("seconds", "lane_utilisation", "act_batch", "faults")
ways = ["default", "default again", "1 lane", "4 lanes", "no shared memory", "1 lane, no shared memory",
        "stopped and resumed", "one processor"]


def numbers(run):
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if not any(m in k for m in machine)} for row in rows]


def sums(run):
    return json.loads((run / f"checkpoints/{last:06d}/MANIFEST").read_text().splitlines()[0])["files"]


commit = subprocess.run(["git", "rev-parse", "--short=10", "HEAD"], capture_output=True, text=True).stdout.strip()
first, bad, table = runs / "default", 0, []
compared = len(numbers(first)[0])
for way in ways:
    rows, files = numbers(runs / way), sums(runs / way)
    assert len(rows) == last and set(files) == set(sums(first))
    wrong = sum(a[k] != b.get(k) for a, b in zip(numbers(first), rows) for k in a)
    other = sum(files[f] != s for f, s in sums(first).items())
    bad += wrong + other
    success = f"{100 * rows[-1]['success_rate']:.1f} %"
    table.append(f"| {way} | {wrong} of {last * compared} | {other} of {len(files)} | {success} |")
result = f"{bad} numbers or files differ" if bad else "All numbers and all files are equal"
Path("docs/results/same.md").write_text(f"""# The same run in other ways

**Question.** Is a run the same with one lane or many, with or without shared memory, and when it is stopped and resumed?

**Result.** {result} in {len(ways)} executions.

Made by `docs/results/same.sh {last}` at commit {commit}, seed 0. The run is the default (tabletop, tiny, pixel, zscore)
for {last} iterations. Compared with the first row: all numbers of metrics.jsonl that do not describe the machine ({compared} per
iteration), and all files of the last checkpoint.

| way | numbers that differ | files that differ | success, last iteration |
|---|---|---|---|
""" + "\n".join(table) + """

## Limits

The comparison uses one machine. Another processor can round differently. LIBERO and the torch policies are not compared.
""")
print("\n".join(table))
sys.exit(bad > 0)
PYTHON
