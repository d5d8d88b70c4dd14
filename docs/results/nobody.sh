#!/usr/bin/env bash
# Writes docs/results/nobody.md: the time from each kind of end of a run until its last process, socket and
# temporary folder is gone (TestNothingIsLeftOver). Fails if one takes more than 2 s, so it needs an idle machine.
# Takes a minute or two.
# Usage: docs/results/nobody.sh
set -euo pipefail
cd "$(dirname "$0")/../.."
out=$(mktemp)
trap 'rm -f "$out"' EXIT
"${GO:-go}" test -count=1 -timeout 30m -v -run '^TestNothingIsLeftOver$' ./cmd/srpo | tee "$out" |
  grep --line-buffered -E '^ *--- |was left after' || true
grep -q '^--- PASS' "$out"
commit=$(git rev-parse --short HEAD)$(git diff --quiet HEAD || echo ' with changes')
rows=$(awk '
    /=== RUN +TestNothingIsLeftOver\// { name = $3; sub(/.*\//, "", name); gsub(/_/, " ", name); first = "" }
    /the process in another session/ { first = $(NF-1) }
    /nothing was left after/ {
      s = $(NF-1)
      printf "| %s | %s | %s | %s |\n", name, first == "" ? s : first, s, first == "" ? "the host" : "next start"
    }
  ' "$out")
cat > docs/results/nobody.md <<EOF
# What remains after a run

**Question.** Does a run leave processes, sockets or temporary folders behind, however it ends?

**Result.** Everything was gone after at most $(awk -F'|' '$4 > most { most = $4 } END { printf "%.2f", most }' <<<"$rows") s.

Made by \`bash docs/results/nobody.sh\` on $(date -u +%F) with $("${GO:-go}" env GOVERSION) on $(nproc) cores, at commit $commit.

The env is a Python plugin with 4 worker processes and a child process in another session. The times start when srpo's own
process has ended, and a check runs every 20 ms. Arenas exist as long as a process that maps them.

*Next start*: after SIGKILL the host cannot remove the child in the other session or the folder of the sockets. The next start
of any srpo removes them, and its time is included.

| end | processes gone, s | all gone, s | removed by |
| --- | ---: | ---: | --- |
$rows

## Limits

One machine and one plugin. On a busy machine the times are longer.
EOF
cat docs/results/nobody.md
# Both times of each end, and the time of the plugin that was killed while the run continued.
! grep -oP 'was left after \K[0-9.]+' "$out" | awk '$1 > 2' | grep .
