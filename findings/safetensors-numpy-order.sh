#!/bin/bash
# safetensors 0.8.0 with numpy 2.2.6: safetensors.numpy.save stores an array that is not C-contiguous in the order of its memory,
# without an error or a warning, so that load returns other numbers. Its documentation asks for contiguous arrays.
# Seen: a transposed [[0, 3], [1, 4], [2, 5]] is loaded as [[0, 1], [2, 3], [4, 5]], and every second number of 0 to 7 as 0, 1, 2, 3.
# Fails if the behaviour is another one.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"${PYTHON:-python3}" -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --disable-pip-version-check safetensors==0.8.0 numpy==2.2.6
"$dir/venv/bin/python" - <<'PY'
import numpy as np
from safetensors.numpy import load, save

arrays = {
    "contiguous": np.arange(6, dtype=np.float32).reshape(3, 2),
    "transposed": np.arange(6, dtype=np.float32).reshape(2, 3).T,
    "strided": np.arange(8, dtype=np.float32)[::2],
}
loaded = load(save(arrays))
for name, array in arrays.items():
    print(f"{name}: saved {array.tolist()}, loaded {loaded[name].tolist()}")
assert np.array_equal(loaded["contiguous"], arrays["contiguous"])
assert loaded["transposed"].tolist() == [[0, 1], [2, 3], [4, 5]]
assert loaded["strided"].tolist() == [0, 1, 2, 3]
PY
