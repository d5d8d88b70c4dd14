#!/usr/bin/env bash
# Generates the committed Go and Python code of srpo.v1. With --check, it fails and names each file that differs from the
# generated one.
#
# All tools are pinned: protoc comes with the wheels of requirements.txt by hash (set PROTOC to use another 3.21),
# protoc-gen-go has the version of google.golang.org/protobuf in go.mod, and the version of protoc-gen-go-grpc is below.
# It needs Go, and uv or a Python 3.10 or 3.11 (set PYTHON to choose one).
#
# The Python code has messages only, as sdk/python implements the services itself. Its imports are relative, so that no
# top-level package `srpo` is needed.
set -euo pipefail
GRPC_PLUGIN=v1.6.2

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
check=
case "${1:-}" in
  --check) check=1 ;;
  "") ;;
  *) echo "usage: $0 [--check]" >&2; exit 2 ;;
esac
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# The tools are in the cache folder, by the hash of their pins.
pins=$( (cat "$here/requirements.txt"; echo "$GRPC_PLUGIN"; grep google.golang.org/protobuf "$root/go.mod") | sha256sum | cut -c1-16)
tools=${XDG_CACHE_HOME:-$HOME/.cache}/srpo/protoc-$pins
if [ ! -e "$tools/complete" ]; then
  rm -rf "$tools"
  mkdir -p "$tools/bin"
  (cd "$root" && go build -o "$tools/bin/protoc-gen-go" google.golang.org/protobuf/cmd/protoc-gen-go)
  (cd "$root" && GOBIN="$tools/bin" GOFLAGS= go install "google.golang.org/grpc/cmd/protoc-gen-go-grpc@$GRPC_PLUGIN")
  if [ -z "${PROTOC:-}" ]; then
    python=${PYTHON:-}
    for candidate in python3.11 python3.10 python3; do
      # A name on PATH can be a pyenv shim of a version that is not selected, which only shows when it runs.
      [ -n "$python" ] || ! "$candidate" -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 10), (3, 11)))' 2>/dev/null || python=$candidate
    done
    if command -v uv >/dev/null; then
      uv venv --quiet --python "${python:-3.11}" "$tools/venv"
      uv pip install --quiet --python "$tools/venv" --require-hashes --only-binary :all: -r "$here/requirements.txt"
    elif [ -n "$python" ]; then
      "$python" -m venv "$tools/venv"
      "$tools/venv/bin/pip" install --quiet --disable-pip-version-check --require-hashes --only-binary :all: -r "$here/requirements.txt"
    else
      echo "$0: neither uv nor a Python 3.10 or 3.11 found; name one in PYTHON, or a protoc 3.21 in PROTOC" >&2
      exit 1
    fi
  fi
  # The tools are incomplete if PROTOC was set, so that the next run without it installs them.
  [ -n "${PROTOC:-}" ] || touch "$tools/complete"
fi
run_protoc() {
  if [ -n "${PROTOC:-}" ]; then "$PROTOC" "$@"; else "$tools/venv/bin/python" -W ignore -m grpc_tools.protoc "$@"; fi
}

cd "$here"
mkdir -p "$work/go" "$work/python"
run_protoc -I . --plugin="$tools/bin/protoc-gen-go" --go_out="$work/go" --go_opt=module=github.com/srpo-dev/srpo/plugins/proto/srpov1 \
  --plugin="$tools/bin/protoc-gen-go-grpc" --go-grpc_out="$work/go" --go-grpc_opt=module=github.com/srpo-dev/srpo/plugins/proto/srpov1 srpo/v1/*.proto
run_protoc -I . --python_out="$work/python" --pyi_out="$work/python" srpo/v1/*.proto
sed -i 's/^from srpo\.v1 import /from . import /' "$work"/python/srpo/v1/*_pb2.py*

# Prints a file without the comments that name the versions of the tools.
bare() { grep -Ev '^//[[:space:]-]*(protoc|protoc-gen-go|protoc-gen-go-grpc)[[:space:]]+v[0-9(]' "$1" || true; }
status=0
update() { # update GENERATED COMMITTED
  if [ -e "$2" ] && [ "$(bare "$1")" = "$(bare "$2")" ]; then return; fi
  if [ -n "$check" ]; then
    echo "${2#"$root"/} differs from the code of the .proto files: run make proto" >&2
    status=1
  else
    cp "$1" "$2"
    chmod 644 "$2"
    echo "wrote ${2#"$root"/}"
  fi
}
for made in "$work"/go/*.go; do update "$made" "$here/srpov1/$(basename "$made")"; done
for made in "$work"/python/srpo/v1/*_pb2.py*; do update "$made" "$root/sdk/python/srpo_sdk/_proto/$(basename "$made")"; done
# Code of a .proto file that was removed.
for old in "$here"/srpov1/*.pb.go "$root"/sdk/python/srpo_sdk/_proto/*_pb2.py*; do
  name=$(basename "$old")
  [ -e "$work/go/$name" ] || [ -e "$work/python/srpo/v1/$name" ] || { echo "${old#"$root"/} belongs to no .proto file: remove it" >&2; status=1; }
done
exit $status
