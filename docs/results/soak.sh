#!/usr/bin/env bash
# Writes docs/results/soak.md and soak.svg: restarts plugins 1000 times (first argument: another number), then
# executes the default run for 2 hours (second argument: another duration, such as 90m), and records what the
# host's process uses. Fails if goroutines, descriptors, memory, or the growth of the folder per iteration
# increase. It cannot continue after an interruption, because it observes one process.
# Usage: docs/results/soak.sh [RESTARTS] [DURATION]
#
# Fixed before any result was seen. The maximum in the last quarter is compared with the maximum in the second
# quarter. These count as growth: more than 5 goroutines or descriptors; more than 20 % plus 20 MB of memory;
# 1.5 times the growth of the folder per iteration. The test also fails if more checkpoints remain than the
# setting keep allows, plus the best one.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
cd "$root"
SRPO_SOAK_RESTARTS=${1:-1000} SRPO_SOAK=${2:-2h} SRPO_SOAK_OUT=$root/docs/results/soak.md \
  SRPO_SOAK_COMMIT=", commit $(git rev-parse --short HEAD)$(git diff --quiet HEAD || echo ' with changes')" \
  go test -tags soak -count=1 -timeout 24h -run '^TestSoak$' -v ./cmd/srpo
