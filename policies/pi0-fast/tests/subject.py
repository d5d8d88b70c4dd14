"""What the checks that all policies share (openvla/tests) are made of, for pi0-fast."""

from cases import policy  # noqa: F401

from vla_lerobot.testing.cases import demonstration, equal, item, parameters, record, update  # noqa: F401

# Settings with which a loaded policy goes on as the saved one would have.
RESUMED = [
    {},
    {"lora_rank": 4, "save_merged": False},
    {"dtype": "bfloat16"},
]
# With which several processes are compared with one.
LR = 1e-4
KINDS = {"adapters": {"lr": LR, "lora_rank": 4}}
