#!/usr/bin/env bash
# Regenerates the committed code of srpo.v1, Go and Python. Needs protoc >= 3.21, protoc-gen-go, protoc-gen-go-grpc.
# Python stubs carry messages only (sdk/python wires the services itself, so it needs no grpc_tools).
set -euo pipefail
cd "$(dirname "$0")"
protoc -I . --go_out=srpov1 --go_opt=module=github.com/srpo-dev/srpo/plugins/proto/srpov1 \
  --go-grpc_out=srpov1 --go-grpc_opt=module=github.com/srpo-dev/srpo/plugins/proto/srpov1 srpo/v1/*.proto
protoc -I . --python_out=../../sdk/python/srpo_sdk/_proto srpo/v1/*.proto
