#!/usr/bin/env bash
# Writes docs/results/fuzz.md: executes each fuzz target of the repository for 10 minutes on one core (first
# argument: another number of seconds). Second argument: how many targets run at a time (default: the number of
# cores). Takes 2 h 30 min for 30 targets on two cores. Run it again after an interruption to continue; give
# another FOLDER to start again.
# Usage: docs/results/fuzz.sh [SECONDS] [JOBS] [FOLDER]
#
# Fixed before any result was seen: the targets (all that .ci/fuzz runs) start from the committed inputs and
# from the inputs that earlier fuzzing left in Go's cache. A target that fails stays in the page. Go writes its
# input to testdata/fuzz of the package: commit the input together with the fix.
set -euo pipefail
cd "$(dirname "$0")/../.."
export seconds=${1:-600}
jobs=${2:-$(nproc)} folder=${3:-runs/fuzz}
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
export folder

one() { # one PACKAGE TARGET: fuzzes a target unless its line of the page exists, and writes that line
  local log=$folder/$2.log line=$folder/$2.md result=passed last
  [ -e "$line" ] && return 0
  echo "$2 in $1: $seconds s"
  if ! GOMAXPROCS=2 "${GO:-go}" test -run '^$' -fuzz "^$2\$" -fuzztime "${seconds}s" -fuzzminimizetime 5s -parallel 1 \
    "./$1" > "$log" 2>&1 && ! bash .ci/fuzz-deadline "$log"; then
    result="**failed**: $(grep -m1 -oE 'testdata/fuzz/[^ ]+' "$log" || tail -1 "$log")"
  fi
  last=$(grep -E '^fuzz: elapsed: .*execs: ' "$log" | tail -1 || true)
  field() { grep -oP "$1: \\K$2" <<<"$last" || echo -; }
  printf '| `%s` | %s | %s | %s | %s | %s |\n' "$2" "$1" "$(field elapsed '[^,]+')" "$(field execs '[0-9]+')" \
    "$(field 'new interesting' '[0-9]+')" "$result" > "$line.part"
  mv "$line.part" "$line"
  echo "$2: ${last#fuzz: } $result"
}
export -f one

mapfile -t targets < <(bash .ci/fuzz list)
printf '%s\n' "${targets[@]}" | xargs -P "$jobs" -L 1 bash -c 'one "$0" "$1"'

commit=$(git rev-parse --short HEAD)$(git diff --quiet HEAD || echo ' with changes')
lines=$(for t in "${targets[@]}"; do cat "$folder/${t#* }.md"; done)
cat > docs/results/fuzz.md <<EOF
# Fuzzing

**Question.** Do the parsers and checks of data from outside return an error for every invalid input, without a crash?

**Result.** $(grep -c '| passed |' <<<"$lines" || true) of ${#targets[@]} fuzz targets passed.

Made by \`bash docs/results/fuzz.sh $seconds\` on $(date -u +%F) with $("${GO:-go}" env GOVERSION), one core per target, at commit $commit.
\`make fuzz\` runs the same targets for 60 s in total. *New*: inputs that reached code which no earlier input had reached.

| target | package | time | executions | new | result |
| --- | --- | ---: | ---: | ---: | --- |
$lines

## Limits

Fuzzing finds defects and does not prove that there are none. The number of executions, not the time, shows how much was
tried.
EOF
echo "docs/results/fuzz.md: $(grep -c '| passed |' docs/results/fuzz.md) of ${#targets[@]} passed"
! grep -q '\*\*failed' docs/results/fuzz.md
