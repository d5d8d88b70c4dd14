#!/usr/bin/env bash
# LIBERO-Plus on the CPU: the contact sheet, memory over mixed resets, time compared with the benchmark's own
# environment, a one-shot policy on a stratified sample, and SRPO on one dimension, before and after on held-out
# variants. Writes docs/results/libero-plus.md after each part. A complete part is skipped (AGAIN=1 removes its
# results and runs it again), and an interrupted part continues. On two idle cores the parts take about 2, 15,
# 8, 15 and 50 minutes (estimates; the page has the measured times). The parts measure time, so use idle cores;
# the page shows the load.
# Usage: docs/results/libero-plus.sh [PART...], parts: sheet memory bench sample learn transfer (default: all)
#
# Fixed before any result was seen:
# - The task is libero_object's bbq sauce, where the README's run learns (libero-bbq.md; alphabet soup does not,
#   libero-noise.md) and each of the five dimensions that run from packages has 20 variants or more: camera 47,
#   robot 38, language 26, noise 41, layout 20. All settings are defaults, including the 280 steps of an episode
#   and the pixels.
# - The policy imitates one demonstration of plain LIBERO, as in the README's command, and has seen no variant.
# - sample: greedy, 20 variants in each dimension, drawn by the seed, each once.
# - learn: 10 iterations on camera variants (DIMENSION=NAME: on others), two start states each, on the half of
#   the variants that the seed puts on the train side. Greedy on all variants of the other half, before and
#   after, each start state once, and the paired difference. One seed: the result is that of one run, and the
#   two episodes of a variant are not quite independent.
# - transfer (added after sample and learn were seen): the sample's episodes again with the policy of learn, and
#   the paired difference. Some of the variants of the learned dimension were trained on.
set -euo pipefail
cd "$(dirname "$0")/../.."
parts=("$@")
[ ${#parts[@]} -gt 0 ] || parts=(sheet memory bench sample learn transfer)
for part in "${parts[@]}"; do
  case $part in
    sheet | memory | bench | sample | learn | transfer) ;;
    *) echo "unknown part $part: use sheet, memory, bench, sample, learn or transfer" >&2 && exit 2 ;;
  esac
done
runs=${RUNS:-runs/libero-plus} seed=${SEED:-0} lanes=${LANES:-2} dimension=${DIMENSION:-camera} iterations=${ITERATIONS:-10} resets=${RESETS:-300}
episodes=${EPISODES:-100} page=${PAGE:-docs/results/libero-plus.md}
# EXTRA has more arguments for each srpo command. To test the script use EXTRA='--set rollout.max_steps=16' RUNS=FOLDER PAGE=FOLDER/page.md.
extra=(${EXTRA:-})
go build -o bin/srpo ./cmd/srpo
mkdir -p "$runs" docs/img
task=pick_up_the_bbq_sauce_and_place_it_in_the_basket
common=(--seed "$seed" --lanes "$lanes" "${extra[@]}")

script() { # script NAME ARGUMENTS...: runs a script of the plugin's tests in the plugin's environment
  local python cache=${SRPO_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/srpo}
  bin/srpo plugin install libero-plus --json >"$runs/install.json"
  python=$(python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))["folder"])' "$runs/install.json")/bin/python
  env -u SRPO_CACHE MUJOCO_GL=egl OMP_NUM_THREADS=1 XDG_CACHE_HOME="$cache/data/env-libero-plus" PYTHONDONTWRITEBYTECODE=1 \
    "$python" "envs/libero-plus/tests/$1" "${@:2}"
}

start() { # trains the one-shot policy on plain LIBERO; starts again if it was interrupted
  [ ! -e "$runs/one-shot/checkpoints/000000" ] || return 0
  rm -rf "$runs/one-shot"
  bin/srpo imitate "${common[@]}" --env libero --task "libero_object/$task" --out "$runs/one-shot"
}

keep() { # keep FILE COMMAND...: writes the command's output to the file if the command succeeds
  local file=$1
  shift
  "$@" >"$file.tmp"
  printf '\ncommit %s, load %s\n' "$(git rev-parse --short=10 HEAD)" "$(cut -d' ' -f1-3 /proc/loadavg)" >"$file.about"
  mv "$file.tmp" "$file"
  cat "$file"
}

learn() {
  local variants=(--env libero-plus --task "libero_object/$dimension/$task*" --set env.libero-plus.start_states=2
    --set rollout.split=task) out=$runs/learn-$dimension
  start >&2
  if compgen -G "$out/checkpoints/0*" >/dev/null; then
    bin/srpo run --resume "$out"
  else
    rm -rf "$out"
    bin/srpo run "${common[@]}" "${variants[@]}" --checkpoint "$runs/one-shot" --iterations "$iterations" \
      --set rollout.start_states=train --set run.videos=4 --set run.eval_every=0 --out "$out"
  fi >&2
  for when in before after; do
    from=$runs/one-shot
    [ $when = before ] || from=$out
    bin/srpo eval --checkpoint "$from" "${common[@]}" "${variants[@]}" --states test --out "$out-$when" >&2
  done
  bin/srpo eval --compare "$out-before" "$out-after"
}

sample() {
  start >&2
  bin/srpo eval --checkpoint "$runs/one-shot" "${common[@]}" --env libero-plus --task "libero_object/*/$task*" \
    --episodes "$episodes" --out "$runs/sample"
}

transfer() {
  if ! [ -e "$runs/sample.txt" ] || ! [ -e "$runs/learn-$dimension.txt" ]; then
    echo "transfer needs the results of the parts sample and learn: run them first" >&2 && exit 1
  fi
  bin/srpo eval --checkpoint "$runs/learn-$dimension" "${common[@]}" --env libero-plus --task "libero_object/*/$task*" \
    --set env.libero-plus.start_states=1 --set rollout.split=auto --states all --episodes "$episodes" \
    --out "$runs/transfer-$dimension" >&2
  bin/srpo eval --compare "$runs/sample" "$runs/transfer-$dimension"
}

main() { # bash reads the whole function before it runs, so an edit of this file during a run has no effect
  for part in "${parts[@]}"; do
    case $part in
      sheet) file=sheet.txt folders=() command=(script sheet.py docs/img/libero-plus.jpg) ;;
      memory) file=memory.json folders=() command=(script memory.py --resets "$resets") ;;
      bench) file=bench.json folders=() command=(script bench.py) ;;
      sample) file=sample.txt folders=(sample) command=(sample) ;;
      learn) file=learn-$dimension.txt folders=("learn-$dimension" "learn-$dimension-before" "learn-$dimension-after") command=(learn) ;;
      transfer) file=transfer-$dimension.txt folders=("transfer-$dimension") command=(transfer) ;;
    esac
    if [ -n "${AGAIN:-}" ]; then
      rm -f "${runs:?}/$file"
      for folder in "${folders[@]}"; do rm -rf "${runs:?}/$folder"; done
    fi
    if [ -e "$runs/$file" ]; then
      echo "$part: complete, $runs/$file (AGAIN=1 runs it again)" >&2
    else
      echo "$part ..." >&2
      keep "$runs/$file" "${command[@]}"
    fi
    python3 docs/results/libero-plus.py "$runs" >"$page.tmp"
    mv "$page.tmp" "$page"
  done
}

{ main; exit; }
