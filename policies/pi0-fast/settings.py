"""The settings under [policy.pi0-fast] in srpo.toml."""

from srpo_sdk import Setting

from vla_lerobot.settings import FIRST, LAST

OWN = [
    Setting("action_tokenizer", "", "folder with FAST's tokenizer.json and processor_config.json; empty: the "
            "checkpoint's action_tokenizer/"),
    Setting("vocabulary", "action", "what tokens are drawn from: action: FAST's tokens or the end, after a fixed "
            "beginning; full: the whole vocabulary, as in lerobot", choices=("action", "full")),
    Setting("max_tokens", 0, "maximum number of tokens in a chunk; 0: the checkpoint's max_decoding_steps", min=0,
            max=4096),
    Setting("attention", "auto", "attention implementation of the language model; auto: lerobot's choice",
            choices=("auto", "sdpa", "eager")),
    Setting("ratio", "token", "the unit of PPO's ratio: a token, or the whole chunk", choices=("token", "chunk")),
]  # fmt: skip
SETTINGS = [*FIRST, *OWN, *LAST]
