#!/usr/bin/env bash
# Writes docs/results/soak.md and soak.svg: 1000 restarts of plugins (another number: first argument), then the default run for 2 hours (second argument, as 90m),
# and what the host's process held meanwhile. Fails when goroutines, descriptors or memory grow.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
cd "$root"
SRPO_SOAK_RESTARTS=${1:-1000} SRPO_SOAK=${2:-2h} SRPO_SOAK_OUT=$root/docs/results/soak.md \
  go test -tags soak -count=1 -timeout 24h -run '^TestSoak$' -v ./cmd/srpo
