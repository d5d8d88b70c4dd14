#!/usr/bin/env bash
# LIBERO-Plus on the CPU: the contact sheet, memory over mixed resets, time against the benchmark's own environment, a one-shot policy on a stratified sample, and
# SRPO on one dimension, before and after on held-out variants. Usage: docs/results/libero-plus.sh [PART...], parts: sheet memory bench sample learn; all of them
# without one. A stopped script goes on where it was. On two idle cores about 2, 15, 5, 40 and 60 minutes (estimates; what was measured is in libero-plus.md).
#
# Fixed before any result was seen:
# - sample: the one-demonstration policy of libero_object's alphabet soup, of as many steps of imitation as docs/results/libero.sh chose for its seed 0 (STEPS, default
#   100), greedy, on 20 variants of that task in each of the five dimensions that run, drawn by seed; episodes of at most 180 steps;
# - learn: 10 iterations of 4 groups of 4 on camera variants of that task, half of the variants by seed; greedy on 40 held-out variants, before and after, and the
#   paired difference. One seed: whatever comes out is one run's result.
set -euo pipefail
cd "$(dirname "$0")/../.."
parts=("$@")
[ ${#parts[@]} -gt 0 ] || parts=(sheet memory bench sample learn)
runs=${RUNS:-runs/libero-plus} steps=${STEPS:-100} seed=${SEED:-0} lanes=${LANES:-2}
go build -o bin/srpo ./cmd/srpo
mkdir -p "$runs" docs/img
bin/srpo plugin install libero-plus --json > "$runs/install.json"
python=$(python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))["folder"])' "$runs/install.json")/bin/python
cache=${SRPO_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/srpo}
script() { # script NAME ARGUMENTS...: one of the plugin's own
  env -u SRPO_CACHE MUJOCO_GL=egl OMP_NUM_THREADS=1 XDG_CACHE_HOME="$cache/data/env-libero-plus" PYTHONDONTWRITEBYTECODE=1 \
    PYTHONPATH="$PWD/envs/libero:$PWD/sdk/python" "$python" "envs/libero-plus/$1" "${@:2}"
}
soup=pick_up_the_alphabet_soup_and_place_it_in_the_basket
common=(--seed "$seed" --lanes "$lanes" --set rollout.max_steps=180)

start() { # the one-shot policy, from plain LIBERO
  [ -e "$runs/one-shot/checkpoints/000000" ] ||
    bin/srpo imitate "${common[@]}" --env libero --task "libero_object/$soup" --set imitate.steps="$steps" --out "$runs/one-shot"
}

for part in "${parts[@]}"; do
  case $part in
    sheet) script sheet.py docs/img/libero-plus.jpg | tee "$runs/sheet.txt" ;;
    memory) script memory.py --resets 300 | tail -1 > "$runs/memory.tmp" && mv "$runs/memory.tmp" "$runs/memory.json" ;;
    bench) script bench.py | tail -1 > "$runs/bench.tmp" && mv "$runs/bench.tmp" "$runs/bench.json" ;;
    sample)
      start
      bin/srpo eval --checkpoint "$runs/one-shot" "${common[@]}" --env libero-plus --task "libero_object/*/$soup*" --episodes 100 --out "$runs/sample" |
        tee "$runs/sample.txt"
      ;;
    learn)
      start
      camera=(--env libero-plus --task "libero_object/camera/$soup*")
      if [ -e "$runs/learn/manifest.json" ]; then
        bin/srpo run --resume "$runs/learn"
      else
        bin/srpo run "${common[@]}" "${camera[@]}" --checkpoint "$runs/one-shot" --iterations 10 --set rollout.start_states=train --set rollout.groups=4 \
          --set rollout.group_size=4 --set rollout.record_every=8 --set run.videos=4 --out "$runs/learn"
      fi
      for when in before after; do
        from=$runs/one-shot
        [ $when = before ] || from=$runs/learn
        bin/srpo eval --checkpoint "$from" "${common[@]}" "${camera[@]}" --states test --episodes 40 --out "$runs/learn-$when"
      done
      bin/srpo eval --compare "$runs/learn-before" "$runs/learn-after" | tee "$runs/learn.txt"
      ;;
    *) echo "there is no part $part: sheet memory bench sample learn" >&2 && exit 2 ;;
  esac
done

# The page: what is there, and what is not there yet.
python3 - "$runs" "$(git rev-parse --short=10 HEAD)" "$(nproc)" "${parts[*]}" > docs/results/libero-plus.tmp <<'PY'
import json, os, sys

runs, commit, cores, parts = sys.argv[1:]


def file(name):
    path = os.path.join(runs, name)
    return open(path).read() if os.path.exists(path) else ""


print(f"# LIBERO-Plus on the CPU\n\nMade by `docs/results/libero-plus.sh {parts}` at commit {commit}, {cores} cores.")
if os.path.exists("docs/img/libero-plus.jpg"):
    print("\n![variants of one task in the dimensions that run from packages](../img/libero-plus.jpg)")
print("\n## Time against the benchmark's own environment\n")
if text := file("bench.json"):
    b = json.loads(text)
    print(f"{b['variants']} variants of one task, {b['steps']} steps each after 10 waiting steps, one process, a frame of 256 x 256 every {b['chunk']} steps against every step: "
          f"{b['ours_s']} s against {b['theirs_s']} s, {b['ratio']} times (load {b['load']} to {b['load_after']}). With frames, resets and one scene loaded that is "
          f"{b['ours_episodes_an_hour']} episodes of that length an hour and process. The full benchmark, 10,030 episodes of at most 220 to 520 steps (331 in the mean), "
          f"would take at most about {10030 * 331 / b['steps'] / b['ours_episodes_an_hour']:.0f} hours of one such process, without the policy's own time; a process takes one core.")
else:
    print("Not run yet.")
print("\n## Memory over 300 resets of mixed variants\n")
if text := file("memory.json"):
    m = json.loads(text)
    print("| resets | scenes loaded | resident, MB |\n| --- | --- | --- |")
    for row in m["rows"]:
        print(f"| {row['resets']} | {row['scenes_loaded']} | {row['mb']} |")
    print(f"\n`keep_scenes = {m['scenes']}`, {m['seconds']} s.")
else:
    print("Not run yet.")
print("\n## A one-shot policy on a stratified sample\n")
print(f"```\n{file('sample.txt')}```" if file("sample.txt") else "Not run yet.")
print("\n## SRPO on camera variants, held-out variants before (A) and after (B)\n")
print(f"```\n{file('learn.txt')}```" if file("learn.txt") else "Not run yet.")
PY
mv docs/results/libero-plus.tmp docs/results/libero-plus.md
