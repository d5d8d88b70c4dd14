#!/bin/bash
# tokenizers 0.22.2: a BPE model without an unknown token leaves characters that are not in its vocabulary out of the encoding, without
# an error or a warning. FAST (lerobot's and openpi's action tokenizer) writes each coefficient of a chunk of actions as a character, so
# a tokenizer that was fitted to few demonstrations drops coefficients, and all later ones are decoded as others.
# Seen: "abcba" with the vocabulary a, b is encoded as a, b, b, a.
# Fails if the behaviour is another one.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"${PYTHON:-python3}" -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --disable-pip-version-check tokenizers==0.22.2
"$dir/venv/bin/python" - <<'PY'
from tokenizers import Tokenizer, models

tokens = Tokenizer(models.BPE({"a": 0, "b": 1}, [])).encode("abcba").tokens
print("abcba is encoded as", tokens)
assert tokens == ["a", "b", "b", "a"]
PY
