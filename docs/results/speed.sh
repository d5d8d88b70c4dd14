#!/usr/bin/env bash
# How fast encoders and rewards are, beside what else does the same. Usage: docs/results/speed.sh [PART...], parts: onnx memory curve reward; all of them without one.
# Writes docs/results/speed.md anew from the parts that are there. On two idle cores about 8, 2, 6 and 12 minutes (estimates). RUNS names the folder of the parts;
# QUICK=1 is everything small, to see that it works.
#
# Fixed before any result was seen:
# - onnx: V-JEPA 2 of ViT-L's size (1024 wide, 24 layers) with random weights, 16 frames of 256 px, the same clip; torch and ONNX Runtime take turns, each in a
#   process of its own with as many threads as cores, median of 5 after one that warms. Wanted: at most 0.85 of torch's time;
# - memory: its layer alone at 8192 tokens (64 frames of 256 px), peak resident memory above the loaded network. Wanted: under 0.7 GB;
# - curve: 32 windows of an episode of 200 frames with the generic encoder, in one call against one call a window. Wanted: at least 5 times faster;
# - reward: clustering and scores of up to 10,000 embeddings of 1408 numbers, beside scikit-learn and scipy.
set -euo pipefail
cd "$(dirname "$0")/../.."
parts=("$@") runs=${RUNS:-runs/speed} quick=${QUICK:-} page=${PAGE:-docs/results/speed.md}
[ ${#parts[@]} -gt 0 ] || parts=(onnx memory curve reward)
go build -o bin/srpo ./cmd/srpo
mkdir -p "$runs"
keep() { # keep FILE COMMAND...: what it prints, when it is through
  echo "$1: ${*:2}" >&2
  "${@:2}" >"$runs/$1.tmp" && mv "$runs/$1.tmp" "$runs/$1"
}
torch() { # torch ARGUMENTS...: encoders/export/speed.py in the exporter's environment
  local python
  python=$(bin/srpo encoder install --json | python3 -c 'import json, sys; print(json.load(sys.stdin)["python"])')
  "$python" -B encoders/export/speed.py "$@"
}
beside() { # scikit-learn and scipy, in an environment of their own
  if [ ! -e "$runs/venv/complete" ]; then
    rm -rf "$runs/venv"
    python3 -m venv "$runs/venv"
    "$runs/venv/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes -r docs/results/speed.txt
    touch "$runs/venv/complete"
  fi
  "$runs/venv/bin/python" -B docs/results/speed.py "$runs/reward.json"
}
for part in "${parts[@]}"; do
  case $part in
    onnx) keep onnx.md torch --part time --rounds "${quick:-5}" ${quick:+--layers 1 --frames 4 --crop 64} ;;
    memory) keep memory.md torch --part memory ;;
    curve) keep curve.json bin/srpo bench encoder --encoder generic --json ${quick:+--quick} ;;
    reward)
      keep reward.json go run ./cmd/srpo-bench -json ${quick:+-quick} reward
      keep reward.md beside
      ;;
    *) echo "there is no part $part: onnx memory curve reward" >&2 && exit 2 ;;
  esac
done

# The page: what is there, and what is not there yet.
python3 - "$runs" "$(git rev-parse --short=10 HEAD)" "$(nproc --all)" "${QUICK:+QUICK=1 }docs/results/speed.sh${*:+ $*}" >"$page.tmp" <<'PY'
import json, os, sys

runs, commit, cores, command = sys.argv[1:]


def file(name):
    path = os.path.join(runs, name)
    return open(path).read() if os.path.exists(path) else ""


def tables(name):
    text = file(name)
    for section in json.loads(text)["sections"] if text else ():
        print(f"{section['text']} Load {section['load'][0]:.1f} to {section['load'][1]:.1f}.\n")
        for t in section["tables"]:
            print(f"{t['title']}\n\n| " + " | ".join(t["columns"]) + " |\n| " + " | ".join("---" for _ in t["columns"]) + " |")
            for row in t["rows"]:
                print("| " + " | ".join(row["cells"]) + " |")
            print()
    if not text:
        print("Not run yet.\n")


print(f"# How fast encoders and rewards are\n\nMade by `{command}` at commit {commit}, {cores} cores; the script's head says what is measured and what was wanted.")
print("\n## ONNX Runtime against torch\n")
print(file("onnx.md") or "Not run yet.\n")
print("## Memory of one attention layer\n")
print(file("memory.md") or "Not run yet.\n")
print("## A progress curve in one call\n")
tables("curve.json")
print("## Clustering and rewards\n")
print(file("reward.md") or "Not run yet.")
PY
mv "$page.tmp" "$page"
echo "written: $page"
