#!/usr/bin/env bash
# Writes docs/results/faults-real.md: kills the processes of real plugins (an ONNX encoder, the tiny OpenVLA,
# LIBERO) at 5 points each (second argument: another number), and compares the checkpoints and metrics with
# those of an undisturbed run. Installs missing environments of plugins. Run it again after an interruption to
# continue.
# Usage: docs/results/faults-real.sh ["onnx openvla libero"] [POINTS] [FOLDER] [SEED]
#
# Fixed before any result was seen: the runs (cmd/srpo/faults_real_test.go), the seed that draws the points (1),
# and that every point counts.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
cd "$root"
folder=${3:-runs/faults-real}
mkdir -p "$folder"
SRPO_FAULTS_REAL=${1:-onnx openvla libero} SRPO_FAULTS=${2:-5} SRPO_FAULTS_DIR=$(cd "$folder" && pwd) \
  SRPO_FAULTS_SEED=${4:-1} SRPO_FAULTS_OUT=$root/docs/results/faults-real.md \
  SRPO_FAULTS_COMMIT="at commit $(git rev-parse --short HEAD)$(git diff --quiet HEAD || echo ' with changes')" \
  go test -tags faults -count=1 -timeout 6h -run '^TestRealKillPoints$' -v ./cmd/srpo
