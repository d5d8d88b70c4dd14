#!/usr/bin/env bash
# Writes docs/results/fuzz.md: every fuzz target of the repository for 10 minutes on one core each (other seconds: first argument), as many at a time as there are cores (second
# argument). Usage: docs/results/fuzz.sh [SECONDS] [JOBS] [FOLDER]; with 30 targets 2 h 30 min on two cores. A stopped script goes on where it was; give another FOLDER to
# begin anew.
#
# Fixed beforehand: which targets (all that .ci/fuzz runs), from the committed inputs and what earlier fuzzing left in Go's cache, and that a target which fails stays in
# the page. Its input is then in testdata/fuzz of its package: commit it with the mend.
set -euo pipefail
cd "$(dirname "$0")/../.."
export seconds=${1:-600}
jobs=${2:-$(nproc)} folder=${3:-runs/fuzz}
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
export folder

one() { # one PACKAGE TARGET: fuzzes a target, unless that is done, and leaves a line of the page
  local log=$folder/$2.log line=$folder/$2.md result=passed last
  [ -e "$line" ] && return 0
  echo "$2 in $1: $seconds s"
  if ! GOMAXPROCS=2 "${GO:-go}" test -run '^$' -fuzz "^$2\$" -fuzztime "${seconds}s" -fuzzminimizetime 5s -parallel 1 "./$1" > "$log" 2>&1 && ! bash .ci/fuzz-deadline "$log"; then
    result="**failed**: $(grep -m1 -oE 'testdata/fuzz/[^ ]+' "$log" || tail -1 "$log")"
  fi
  last=$(grep -E '^fuzz: elapsed: .*execs: ' "$log" | tail -1 || true)
  printf '| `%s` | %s | %s | %s | %s | %s |\n' "$2" "$1" "$(grep -oP 'elapsed: \K[^,]+' <<<"$last" || echo -)" "$(grep -oP 'execs: \K[0-9]+' <<<"$last" || echo -)" \
    "$(grep -oP 'new interesting: \K[0-9]+' <<<"$last" || echo -)" "$result" > "$line.part"
  mv "$line.part" "$line"
  echo "$2: ${last#fuzz: } $result"
}
export -f one

mapfile -t targets < <(bash .ci/fuzz list)
printf '%s\n' "${targets[@]}" | xargs -P "$jobs" -L 1 bash -c 'one "$0" "$1"'

{
  echo "# Fuzzing"
  echo
  echo "Made by \`bash docs/results/fuzz.sh $seconds\` on $(date -u +%F), $("${GO:-go}" env GOVERSION), one core a target, at commit $(git rev-parse --short HEAD)$(git diff --quiet HEAD || echo ' with changes')."
  echo "\`make fuzz\` runs the same targets for 60 s together. *New* are inputs that reached code which no earlier one had."
  echo
  echo "| target | package | time | executions | new | |"
  echo "| --- | --- | ---: | ---: | ---: | --- |"
  for t in "${targets[@]}"; do cat "$folder/${t#* }.md"; done
} > docs/results/fuzz.md
echo "docs/results/fuzz.md: $(grep -c '| passed |' docs/results/fuzz.md) of ${#targets[@]} passed"
! grep -q '\*\*failed' docs/results/fuzz.md
