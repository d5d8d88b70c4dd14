#!/usr/bin/env bash
# Speed of encoders and rewards, compared with other programs that do the same. Writes docs/results/speed.md
# from the parts that exist. On two idle cores the parts take about 8, 2, 6 and 12 minutes (estimates).
# Usage: docs/results/speed.sh [PART...], parts: onnx memory curve reward (default: all)
#
# RUNS=FOLDER: the folder of the parts. QUICK=1: small sizes, to test the script.
#
# Fixed before any result was seen:
# - onnx: V-JEPA 2 of ViT-L's size (width 1024, 24 layers) with random weights, 16 frames of 256 px, the same
#   clip. torch and ONNX Runtime alternate, each in a process of its own with as many threads as cores; median
#   of 5 after one warm-up. Required: at most 0.85 of torch's time.
# - memory: one layer of it at 8192 tokens (64 frames of 256 px), peak resident memory above the loaded network.
#   Required: less than 0.7 GB.
# - curve: 32 windows of an episode of 200 frames with the generic encoder, in one call and in one call per
#   window. Required: at least 5 times faster in one call.
# - reward: clustering and scores of up to 10,000 embeddings of 1408 numbers, compared with scikit-learn and
#   scipy.
set -euo pipefail
cd "$(dirname "$0")/../.."
parts=("$@") runs=${RUNS:-runs/speed} quick=${QUICK:-} page=${PAGE:-docs/results/speed.md}
[ ${#parts[@]} -gt 0 ] || parts=(onnx memory curve reward)
go build -o bin/srpo ./cmd/srpo
mkdir -p "$runs"
keep() { # keep FILE COMMAND...: writes the command's output to the file if the command succeeds
  echo "$1: ${*:2}" >&2
  "${@:2}" >"$runs/$1.tmp" && mv "$runs/$1.tmp" "$runs/$1"
}
torch() { # torch ARGUMENTS...: encoders/export/speed.py in the exporter's environment
  local python
  python=$(bin/srpo encoder install --json | python3 -c 'import json, sys; print(json.load(sys.stdin)["python"])')
  "$python" -B encoders/export/speed.py "$@"
}
peers() { # scikit-learn and scipy, in an environment of their own
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
      keep reward.md peers
      ;;
    *) echo "unknown part $part: use onnx, memory, curve or reward" >&2 && exit 2 ;;
  esac
done

# The page, with the parts that exist.
python3 - "$runs" "$(git rev-parse --short=10 HEAD)" "$(nproc --all)" "${QUICK:+QUICK=1 }docs/results/speed.sh${*:+ $*}" >"$page.tmp" <<'PY'
import json, os, re, sys

runs, commit, cores, command = sys.argv[1:]


def file(name):
    path = os.path.join(runs, name)
    return open(path).read() if os.path.exists(path) else ""


def tables(name):
    text = file(name)
    for section in json.loads(text)["sections"] if text else ():
        print(f"{section['text']} Load average {section['load'][0]:.1f} to {section['load'][1]:.1f}.\n")
        for t in section["tables"]:
            print(f"{t['title']}\n\n| " + " | ".join(t["columns"]) + " |")
            print("| " + " | ".join("---" for _ in t["columns"]) + " |")
            for row in t["rows"]:
                print("| " + " | ".join(row["cells"]) + " |")
            print()
    if not text:
        print("Not run yet.\n")


def found(name, pattern):
    match = re.search(pattern, file(name), re.M)
    return match[1] if match else "?"


share = found("onnx.md", r"^ONNX Runtime takes ([\d.]+) of torch's time")
memory = found("memory.md", r"^\| fused \| ([\d.]+)")
curve = [r["cells"][-1] for s in json.loads(file("curve.json") or '{"sections": []}')["sections"] for r in s["tables"][1]["rows"]]
print(f"""# Speed of encoders and rewards

**Question.** How fast are encoders, progress curves and rewards, compared with torch and scikit-learn?

**Result.** ONNX Runtime takes {share} of torch's time (required: at most 0.85), one attention layer {memory} GB (less than 0.7), and a
progress curve in one call is {curve[-1] if curve else "?"} times faster than clip by clip (at least 5).

Made by `{command}` at commit {commit}, {cores} cores. The head of the script lists what is measured
and what was required.""")
print("\n## ONNX Runtime against torch\n")
print(file("onnx.md") or "Not run yet.\n")
print("## Memory of one attention layer\n")
print(file("memory.md") or "Not run yet.\n")
print("## A progress curve in one call\n")
tables("curve.json")
print("## Clustering and rewards\n")
print(file("reward.md") or "Not run yet.")
print("## Limits\n\nRandom weights, two cores and no GPU. Other programs on the machine change the times; the load is given with each part.")
PY
mv "$page.tmp" "$page"
echo "written: $page"
