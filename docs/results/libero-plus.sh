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
