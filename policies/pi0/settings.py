"""The settings under [policy.pi0] in srpo.toml."""

from srpo_sdk import Setting

from vla_lerobot.settings import FIRST, LAST

OWN = [
    Setting("learn", "auto", "what is trained: expert: only the action expert (as in pi_RL); all: the whole model; "
            "auto: expert for a checkpoint, all for a preset, in updates and in imitation",
            choices=("auto", "expert", "all")),
    Setting("method", "flow-sde", "how actions become random: flow-sde, or flow-noise, in which a small network learns "
            "the standard deviation of the noise", choices=("flow-sde", "flow-noise")),
    Setting("noise_level", 0.5, "a of flow-sde (0.5: as in pi_RL); the sampling temperature multiplies it", min=1e-3,
            max=10.0),
    Setting("denoise_steps", 0, "K, the steps from noise to actions; 0: the checkpoint's num_inference_steps", min=0,
            max=1000),
    Setting("stochastic", "one", "one: one random step of a chunk is stochastic and the others follow the ODE; all: "
            "all steps are stochastic, and an update takes K times as long", choices=("one", "all")),
    Setting("attention", "eager", "attention of language model and expert in acting and updates: lerobot's eager, or "
            "torch's sdpa. Imitation and gradient_checkpointing always use eager, which lerobot's network needs there",
            choices=("eager", "sdpa")),
    Setting("ratio", "chunk", "the unit of PPO's ratio: a chunk (as in pi_RL), an action, or an element of an action",
            choices=("chunk", "action", "element")),
]  # fmt: skip
SETTINGS = [*FIRST, *OWN, *LAST]
