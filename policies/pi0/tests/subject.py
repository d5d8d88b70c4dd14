"""The pi0 policy for the checks in vla.testing."""

from cases import policy  # noqa: F401

from vla_lerobot.testing.cases import demonstration, equal, item, parameters, record, update  # noqa: F401

# Settings of policies that continue after save and load exactly as without.
RESUMED = [
    {},
    {"lora_rank": 4, "save_merged": False},
    {"method": "flow-noise", "dtype": "bfloat16"},
]
# Settings with which several processes are compared with one, and their learning rate.
LR = 1e-4
KINDS = {"flow-noise": {"lr": LR, "method": "flow-noise", "offload_optimizer": True}}
