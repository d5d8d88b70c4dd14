"""What srpo.toml may set under [policy.pi0] and [policy.pi0-fast] alike."""

from srpo_sdk import Setting

FIRST = [
    Setting("checkpoint", "", "folder in lerobot's format (config.json, model.safetensors, policy_preprocessor.json, "
            "policy_postprocessor.json and their .safetensors), or a hub id that is in the local cache"),
    Setting("preset", "", "instead of a checkpoint: tiny, under a million random weights for trying things out on "
            "a CPU", choices=("", "tiny")),
    Setting("tokenizer", "", "folder with PaliGemma's tokenizer.json; empty: the checkpoint's, own or in tokenizer/"),
    Setting("cameras", "", "PICTURE=CAMERA, separated by commas: which of the env's cameras each of the checkpoint's "
            "pictures is; empty: the first is the env's recording camera, the second its wrist camera, if it has one"),
    Setting("chunk", 0, "actions of each plan that are executed; 0: the checkpoint's n_action_steps", min=0, max=1024),
    Setting("relative", "auto", "actions that are counted from the state: none, all-but-last (openpi's LIBERO "
            "checkpoints); auto: what config.json says", choices=("auto", "none", "all-but-last")),
    Setting("statistics", "auto", "statistics of actions and state in imitation: keep the checkpoint's, compute them "
            "from the demonstrations; auto: compute for a preset", choices=("auto", "keep", "compute")),
    Setting("device", "auto", "cpu, cuda or cuda:N; auto: cuda where there is one"),
    Setting("dtype", "auto", "of the language model and the expert (lerobot keeps vision and norms in float32); what "
            "learns is float32. auto: bfloat16 on cuda, float32 on a CPU", choices=("auto", "float32", "bfloat16")),
    Setting("threads", 1, "CPU threads; other numbers may change last digits", min=1, max=256),
    Setting("compile", False, "torch.compile of the transformer: minutes at the start, faster then"),
    Setting("micro_batch", 0, "samples in a forward pass, in acting and learning alike, so that both compute the same; "
            "0: 8 on cuda, 1 on a CPU", min=0, max=1024),
    Setting("gradient_checkpointing", False, "compute activations twice instead of keeping them"),
    Setting("offload_optimizer", False, "optimiser, its float32 weights and the starting policy in the CPU's memory"),
    Setting("lora_rank", 0, "rank of LoRA on all linear layers that learn; 0: they learn whole", min=0, max=1024),
    Setting("lora_alpha", 16.0, "LoRA's scale is lora_alpha / lora_rank", min=1e-3),
]  # fmt: skip
LAST = [
    Setting("lr", 0.0, "AdamW's learning rate in updates; 0: 5e-6 for a checkpoint, 1e-4 for a preset", min=0.0,
            max=1.0),
    Setting("adam_beta1", 0.9, "decay of the gradient's mean", min=0.0, max=0.9999),
    Setting("adam_beta2", 0.95, "decay of the gradient's square (openpi's)", min=0.0, max=0.99999),
    Setting("weight_decay", 0.01, "AdamW's (lerobot's)", min=0.0, max=1.0),
    Setting("grad_clip", 1.0, "largest norm of the gradient (openpi's); 0: no bound", min=0.0),
    Setting("mini_batch", 256, "chunks in a mini-batch when the update leaves it to the policy", min=1),
    Setting("mean", "trajectory", "of the loss: trajectory: every trajectory weighs the same; ratio: every ratio does",
            choices=("trajectory", "ratio")),
    Setting("imitate_lr", 0.0, "highest learning rate in imitation; 0: 2.5e-5 for a checkpoint (openpi's), 1e-3 for a "
            "preset", min=0.0, max=1.0),
    Setting("imitate_steps", 0, "gradient steps when the call leaves it to the policy; 0: 30000 for a checkpoint "
            "(openpi's), 300 for a preset", min=0),
    Setting("imitate_batch", 0, "samples in a step of imitation; 0: 32 for a checkpoint (openpi's), 8 for a preset",
            min=0, max=4096),
    Setting("imitate_micro_batch", 0, "of these, in a forward pass; 0: micro_batch on cuda, 8 on a CPU", min=0,
            max=4096),
    Setting("imitate_decay", "cosine", "learning rate after a warm-up of 1/30 of the steps: along a cosine to a tenth "
            "(openpi's), or constant", choices=("cosine", "none")),
    Setting("record_mb", 4096, "most memory for recorded chunks, MiB; a 256 x 256 picture has 0.2", min=1),
    Setting("demo_mb", 4096, "most memory for demonstrations, MiB", min=1),
    Setting("rollback_mb", 4096, "an update that fails is undone if weights and optimiser take at most so many MiB",
            min=0),
    Setting("save_merged", True, "with LoRA: save whole weights that lerobot loads; false: the adapter alone"),
]  # fmt: skip
