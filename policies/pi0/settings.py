"""What srpo.toml may set under [policy.pi0]."""

from srpo_sdk import Setting

from vla_lerobot.settings import FIRST, LAST

OWN = [
    Setting("learn", "auto", "what learns: the action expert alone (as in pi_RL), or all; auto: expert for a "
            "checkpoint in updates and imitation, all for a preset", choices=("auto", "expert", "all")),
    Setting("method", "flow-sde", "how actions become random: flow-sde, or flow-noise with a small network that learns "
            "the noise's size", choices=("flow-sde", "flow-noise")),
    Setting("noise_level", 0.5, "a of flow-sde (0.5: pi_RL); the sampling temperature multiplies it", min=1e-3,
            max=10.0),
    Setting("denoise_steps", 0, "K, steps from noise to actions; 0: the checkpoint's num_inference_steps", min=0,
            max=1000),
    Setting("stochastic", "one", "one random step of a chunk is stochastic and the others follow the ODE, or all are: "
            "then an update costs K times as much", choices=("one", "all")),
    Setting("attention", "eager", "attention of language model and expert in acting and updates: lerobot's own eager "
            "or torch's sdpa. In imitation and with gradient_checkpointing lerobot's network knows eager alone",
            choices=("eager", "sdpa")),
    Setting("ratio", "chunk", "what one ratio of PPO is of: a chunk (pi_RL), an action, or an element of one",
            choices=("chunk", "action", "element")),
]  # fmt: skip
SETTINGS = [*FIRST, *OWN, *LAST]
