#!/usr/bin/env bash
# Writes docs/results/nobody.md: how long after each kind of end of a run the last of its processes, sockets and temporary folders was gone (TestNobodyIsLeft: an env in
# Python with 4 worker processes and a child in a session of its own, two of them at a time). Fails when one took more than 2 s, for which the machine must be idle. Takes a minute or two.
set -euo pipefail
cd "$(dirname "$0")/../.."
out=$(mktemp)
trap 'rm -f "$out"' EXIT
"${GO:-go}" test -count=1 -timeout 30m -v -run '^TestNobodyIsLeft$' ./cmd/srpo | tee "$out" | grep --line-buffered -E '^ *--- |was left after' || true
grep -q '^--- PASS' "$out"
{
  echo "# Who is left"
  echo
  echo "Made by \`bash docs/results/nobody.sh\` on $(date -u +%F), $("${GO:-go}" env GOVERSION), $(nproc) cores, at commit $(git rev-parse --short HEAD)$(git diff --quiet HEAD || echo ' with changes')."
  echo "A run with an env in Python that holds 4 workers and a child in another session, ended in each way. Seconds from the end of srpo's own process until nothing was"
  echo "left that has to do with the run: no process, socket or temporary folder (arenas live as long as a process that maps them). They are looked for every 20 ms."
  echo "*Next start*: what SIGKILL kept the host from removing, that child and the sockets' folder, goes with the next start of any srpo, which is counted in."
  echo
  echo "| end | processes gone, s | all gone, s | by |"
  echo "| --- | ---: | ---: | --- |"
  awk '
    /=== RUN +TestNobodyIsLeft\// { name = $3; sub(/.*\//, "", name); gsub(/_/, " ", name); first = "" }
    /but the one in another session/ { first = $(NF-1) }
    /nothing was left after/ { s = $(NF-1); printf "| %s | %s | %s | %s |\n", name, first == "" ? s : first, s, first == "" ? "the host" : "next start" }
  ' "$out"
} > docs/results/nobody.md
cat docs/results/nobody.md
# Both times of each end, and that of the plugin that was killed while the run went on.
! grep -oP 'was left after \K[0-9.]+' "$out" | awk '$1 > 2' | grep .
