"""What srpo.toml may set under [policy.pi0-fast]."""

from srpo_sdk import Setting

from vla_lerobot.settings import FIRST, LAST

OWN = [
    Setting("action_tokenizer", "", "folder with FAST's tokenizer.json and processor_config.json; empty: the "
            "checkpoint's action_tokenizer/"),
    Setting("vocabulary", "action", "what is drawn from: action: the beginning is given, then FAST's tokens or the "
            "end; full: everything, as lerobot does", choices=("action", "full")),
    Setting("max_tokens", 0, "most tokens of a chunk; 0: the checkpoint's max_decoding_steps", min=0, max=4096),
    Setting("attention", "auto", "attention of the language model; auto: lerobot's choice",
            choices=("auto", "sdpa", "eager")),
    Setting("ratio", "token", "what one ratio of PPO is of: a token, or the whole chunk", choices=("token", "chunk")),
]  # fmt: skip
SETTINGS = [*FIRST, *OWN, *LAST]
