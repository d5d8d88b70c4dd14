#!/usr/bin/env bash
# Writes docs/results/faults.md: kills one process of a small run at 200 points of its plugins and at 200 points
# of its host (first argument: another number), and compares the checkpoints and metrics with those of an
# undisturbed run. Takes about 10 minutes on two idle cores.
# Usage: docs/results/faults.sh [POINTS] [SEED]
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
cd "$root"
SRPO_FAULTS=${1:-200} SRPO_FAULTS_SEED=${2:-1} SRPO_FAULTS_OUT=$root/docs/results/faults.md \
  SRPO_FAULTS_COMMIT=", at commit $(git rev-parse --short HEAD)$(git diff --quiet HEAD || echo ' with changes')" \
  go test -tags faults -count=1 -timeout 6h -run '^TestKillPoints$' ./cmd/srpo
