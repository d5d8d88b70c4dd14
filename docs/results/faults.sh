#!/usr/bin/env bash
# Writes docs/results/faults.md: a small run is killed at 200 points of its plugins and 200 of its host (another number: first argument), and must come to the
# same checkpoints and metrics. Takes some 10 minutes on two idle cores.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
cd "$root"
SRPO_FAULTS=${1:-200} SRPO_FAULTS_SEED=${2:-1} SRPO_FAULTS_OUT=$root/docs/results/faults.md \
  SRPO_FAULTS_COMMIT=", at commit $(git rev-parse --short HEAD)$(git diff --quiet HEAD || echo ' with changes')" \
  go test -tags faults -count=1 -timeout 6h -run '^TestKillPoints$' ./cmd/srpo
