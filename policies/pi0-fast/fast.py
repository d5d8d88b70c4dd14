"""FAST (Pertsch et al., 2025): encodes a chunk of actions as tokens, and decodes it.

The encoding is a cosine transform over time, rounded to integers, which row by row become the characters of a text, and
a byte-pair encoding of this text. The files are those of the published tokenizer. Its Python program, which
transformers would run, is not needed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import numpy as np
import srpo_sdk as srpo
from scipy.fft import dct, idct
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

FILES = "tokenizer.json and processor_config.json"


class Fast:
    """A FAST tokenizer.

    Args:
        files: those named in `FILES`, bytes by name.
        place: for errors.

    Raises:
        srpo.Error: "not found" or "corrupt".
    """

    def __init__(self, files: Mapping[str, bytes], place: str):
        missing = [n for n in ("tokenizer.json", "processor_config.json") if n not in files]
        if missing:
            raise srpo.Error(
                "not found",
                f"the FAST tokenizer is missing: no {', '.join(missing)}",
                place=place,
                hint=f"copy {FILES} of lerobot/fast-action-tokenizer into a folder action_tokenizer/ of the "
                "checkpoint, or set action_tokenizer to their folder",
            )
        try:
            self.bpe = Tokenizer.from_buffer(files["tokenizer.json"])
            config = json.loads(files["processor_config.json"])
            self.scale, self.min_token = float(config["scale"]), int(config["min_token"])
            if not self.scale > 0:
                raise ValueError(f"scale is {self.scale}")
        except Exception as e:  # tokenizers raises plain exceptions
            raise srpo.Error("corrupt", f"the FAST tokenizer cannot be read: {e!r}", place=place) from e
        self.size = self.bpe.get_vocab_size()

    def encode(self, actions: np.ndarray) -> list[int]:
        """Encodes normalised actions [C, D]."""
        numbers = np.around(dct(np.asarray(actions), axis=0, norm="ortho") * self.scale)
        text = "".join(map(chr, np.maximum(numbers.reshape(-1) - self.min_token, 0).astype(int)))
        return self.bpe.encode(text).ids

    def decode(self, tokens: Sequence[int], chunk: int, dim: int) -> np.ndarray:
        """Decodes tokens to normalised actions float32 [chunk, dim], like lerobot for invalid strings too: missing
        numbers are 0, extra ones are ignored, and all are 0 if a token is not one of FAST's.
        """
        numbers = np.zeros(0)
        if all(0 <= t < self.size for t in tokens):
            text = self.bpe.decode(list(tokens), skip_special_tokens=False)
            numbers = np.array([ord(c) + self.min_token for c in text], np.float64)
        coefficients = np.zeros(chunk * dim)
        coefficients[: min(len(numbers), len(coefficients))] = numbers[: len(coefficients)]
        return idct(coefficients.reshape(chunk, dim) / self.scale, axis=0, norm="ortho").astype(np.float32)


def small_tokenizer() -> dict[str, bytes]:
    """The files of a small FAST tokenizer, bytes by name. Its tokens are bytes, and runs of 2, 4 and 8 zeros."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    min_token = -63
    zero = pre_tokenizers.ByteLevel(False, use_regex=False).pre_tokenize_str(chr(-min_token))[0][0]
    vocabulary = {c: i for i, c in enumerate(alphabet)}
    merges = []
    for n in (1, 2, 4):
        merges.append((zero * n, zero * n))
        vocabulary[zero * 2 * n] = len(vocabulary)
    t = Tokenizer(models.BPE(vocabulary, merges))
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    t.decoder = decoders.ByteLevel()
    config = {"processor_class": "UniversalActionProcessor", "scale": 10, "vocab_size": len(vocabulary)}
    return {
        "tokenizer.json": t.to_str().encode(),
        "tokenizer_config.json": json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}).encode(),
        "processor_config.json": json.dumps({**config, "min_token": min_token}).encode(),
    }
