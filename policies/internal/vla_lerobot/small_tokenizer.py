"""A small text tokenizer for tests and trial runs, with PaliGemma's special tokens and the words of LIBERO's tasks."""

from __future__ import annotations

import json

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

SPECIAL = ["<pad>", "<eos>", "<bos>", "<unk>"]  # in PaliGemma's order
_WORDS = """\
a above alphabet and apple back bag basket beans black blue bin block both bottle bottom bowl box brown bbq butter
cabinet can caddy cheese chocolate close compartment cookies cream cup cyan dip drawer dressing drop flat frying from
front ground green in into it ketchup left lift light lower middle microwave milk moka mug move near next of off on onto
open orange other out over pan pick place plate pot pudding purple push put rack ramekin ranch red right salad sauce
second side slot soup stack stove table then third to tomato top touch towards tray turn under up upper wall white wine
with wooden yellow cake cloth juice knob one pair sticky two the Task State Action""".split()


def files(vocabulary: int) -> dict[str, bytes]:
    """The files of the tokenizer, bytes by name.

    Known words with a space before them, and the numbers 0 to 255, are one token each. Other words are split into
    characters. Tokens <locNNNN> fill the vocabulary; pi0-fast uses the last ones for actions.

    Args:
        vocabulary: number of tokens.
    """
    v = {piece: i for i, piece in enumerate(SPECIAL)}
    merges: list[tuple[str, str]] = []
    for c in ["▁", "\n", *map(chr, range(33, 127))]:
        v.setdefault(c, len(v))

    def add(word: str) -> None:
        prefix = word[0]
        for c in word[1:]:
            if prefix + c not in v:
                v[prefix + c] = len(v)
                merges.append((prefix, c))
            prefix += c

    for word in ["Action", *(f"▁{w}" for w in sorted(_WORDS)), *(f"▁{n}" for n in range(256))]:
        add(word)
    if len(v) > vocabulary:
        raise ValueError(f"the vocabulary has {vocabulary} tokens, but {len(v)} are needed")
    for i in range(len(v), vocabulary):
        v[f"<loc{i:04d}>"] = i
    t = Tokenizer(models.BPE(v, merges, unk_token="<unk>"))
    t.normalizer = normalizers.Replace(" ", "▁")
    t.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(r"[:;,|\n]"), "isolated"), pre_tokenizers.Split("▁", "merged_with_next")]
    )
    t.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse()])
    t.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", v["<bos>"])])
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<bos>",
        "eos_token": "<eos>",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
        "padding_side": "right",
    }
    return {
        "tokenizer.json": t.to_str().encode(),
        "tokenizer_config.json": json.dumps(config).encode(),
    }
