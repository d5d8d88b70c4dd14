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

_SURROGATES = 0xD800  # the first number that is not a character
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
        """Encodes normalised actions [C, D].

        As in the published program, coefficients below min_token are raised to it, and those for which the tokenizer
        has no token are left out, so that all later ones are decoded as others. See `lost`.
        """
        return self._encoded(self._coefficients(actions))

    def lost(self, actions: np.ndarray) -> str:
        """Returns why the tokens of normalised actions [C, D] are decoded to other coefficients; "": they are not."""
        numbers = self._coefficients(actions)
        if not numbers.size:
            return ""
        if numbers.min() < self.min_token:
            return f"coefficient {numbers.min():.0f} is below the tokenizer's smallest, {self.min_token}"
        if not numbers.max() - self.min_token < _SURROGATES:
            return f"coefficient {numbers.max():.0f} is too large"
        decoded = self._numbers(self._encoded(numbers))
        if len(decoded) == len(numbers) and (decoded == numbers).all():
            return ""
        unknown = [n for n in dict.fromkeys(numbers) if self._numbers(self._encoded([n])).tolist() != [n]]
        if not unknown:
            return f"{len(numbers)} coefficients are decoded as {len(decoded)} others"
        return f"the tokenizer has no token for coefficient {unknown[0]:.0f}"

    def _coefficients(self, actions: np.ndarray) -> np.ndarray:
        return np.around(dct(np.asarray(actions), axis=0, norm="ortho") * self.scale).reshape(-1)

    def _encoded(self, numbers: Sequence[float] | np.ndarray) -> list[int]:
        text = "".join(map(chr, np.maximum(np.asarray(numbers) - self.min_token, 0).astype(int)))
        return self.bpe.encode(text).ids

    def _numbers(self, tokens: Sequence[int]) -> np.ndarray:
        text = self.bpe.decode(list(tokens), skip_special_tokens=False)
        return np.array([ord(c) + self.min_token for c in text], np.float64)

    def decode(self, tokens: Sequence[int], chunk: int, dim: int) -> np.ndarray:
        """Decodes tokens to normalised actions float32 [chunk, dim], like lerobot for invalid strings too: missing
        numbers are 0, extra ones are ignored, and all are 0 if a token is not one of FAST's.
        """
        numbers = np.zeros(0)
        if all(0 <= t < self.size for t in tokens):
            numbers = self._numbers(tokens)
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
