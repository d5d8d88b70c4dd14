#!/usr/bin/env bash
# Writes the goldens with the published code and compares with them: bash run.sh PYTHON, where PYTHON is that of the
# plugin's environment with pytest. It creates an environment for the originals (about 6 GB; uv links torch from the
# plugin's where it can) and downloads the fork's Llama. If SRPO_PARITY names a folder, both are kept there and reused; a
# modeling_llama.py that exists there is used as it is (originals.py names the version).
set -euo pipefail
python=$1
here=$(cd "$(dirname "$0")" && pwd)
work=${SRPO_PARITY:-$(mktemp -d)}
export OMP_NUM_THREADS=1 TF_CPP_MIN_LOG_LEVEL=2
mkdir -p "$work/checkpoints" "$work/fork"
if [ ! -e "$work/complete" ]; then
  uv venv -q --python 3.11 "$work/venv"
  uv pip install -q --no-deps --require-hashes --python "$work/venv/bin/python" -r "$here/requirements.txt"
  if [ ! -e "$work/modeling_llama.py" ]; then
    git -C "$work/fork" init -q
    git -C "$work/fork" fetch -q --depth 1 https://github.com/moojink/transformers-openvla-oft bc339d9ad707454c0c115970db43c260067c61ab
    git -C "$work/fork" show FETCH_HEAD:src/transformers/models/llama/modeling_llama.py > "$work/modeling_llama.part"
    mv "$work/modeling_llama.part" "$work/modeling_llama.py"
  fi
  touch "$work/complete"
fi
"$python" "$here/checkpoints.py" "$work/checkpoints"
"$work/venv/bin/python" "$here/originals.py" "$work/checkpoints" "$here/../goldens" --fork "$work/modeling_llama.py"
cd "$here/../.." && SRPO_PARITY_CHECKPOINTS=$work/checkpoints "$python" -m pytest -q -p no:cacheprovider tests/test_parity.py
