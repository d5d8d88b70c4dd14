#!/usr/bin/env bash
# Writes docs/results/soak.md and soak.svg: 1000 restarts of plugins (another number: first argument), then the default run for 2 hours (second argument, as 90m),
# and what the host's process held meanwhile. Fails when goroutines, descriptors or memory grow, or what an iteration leaves on disk. It cannot go on where it was
# stopped: it is one process that is watched.
#
# Fixed beforehand: what grows is the most in the last quarter against the most in the second one, by more than 5 goroutines or descriptors, or 20 % and 20 MB,
# and the folder by more than half as much again for each iteration; more checkpoints than keep and the best fail too.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
cd "$root"
SRPO_SOAK_RESTARTS=${1:-1000} SRPO_SOAK=${2:-2h} SRPO_SOAK_OUT=$root/docs/results/soak.md \
  SRPO_SOAK_COMMIT=", commit $(git rev-parse --short HEAD)$(git diff --quiet HEAD || echo ' with changes')" \
  go test -tags soak -count=1 -timeout 24h -run '^TestSoak$' -v ./cmd/srpo
