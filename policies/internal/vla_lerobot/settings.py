"""The settings that [policy.pi0] and [policy.pi0-fast] in srpo.toml have in common."""

from srpo_sdk import Setting

FIRST = [
    Setting("checkpoint", "", "folder in lerobot's format (config.json, model.safetensors, policy_preprocessor.json, "
            "policy_postprocessor.json and their .safetensors), or a hub id that is in the local cache"),
    Setting("preset", "", "tiny: a model with under a million random weights for trial runs on a CPU, instead of a "
            "checkpoint", choices=("", "tiny")),
    Setting("tokenizer", "", "folder with PaliGemma's tokenizer.json; empty: the checkpoint's, or tokenizer/ in it"),
    Setting("cameras", "", "comma-separated IMAGE=CAMERA: the env's camera for each image input of the checkpoint; "
            "empty: the env's recording camera for the first, and its wrist camera, if any, for the second"),
    Setting("chunk", 0, "actions of each plan that are executed; 0: the checkpoint's n_action_steps", min=0, max=1024),
    Setting("relative", "auto", "which action dimensions are relative to the state: none, or all-but-last (openpi's "
            "LIBERO checkpoints); auto: as in config.json", choices=("auto", "none", "all-but-last")),
    Setting("statistics", "auto", "statistics of actions and state in imitation: keep those of the checkpoint, or "
            "compute them from the demonstrations; auto: compute for a preset", choices=("auto", "keep", "compute")),
    Setting("device", "auto", "cpu, cuda or cuda:N; auto: cuda if available"),
    Setting("dtype", "auto", "dtype of the language model and the expert (vision and norms are float32, as in "
            "lerobot); trainable parameters are float32. auto: bfloat16 on cuda, float32 on a CPU",
            choices=("auto", "float32", "bfloat16")),
    Setting("threads", 1, "CPU threads; another number may change the last digits of results", min=1, max=256),
    Setting("compile", False, "use torch.compile for the transformer: faster, after minutes at the start"),
    Setting("micro_batch", 0, "samples in a forward pass, equal in acting and learning so that both compute the same "
            "result; 0: 8 on cuda, 1 on a CPU", min=0, max=1024),
    Setting("gradient_checkpointing", False, "recompute activations in the backward pass instead of storing them"),
    Setting("offload_optimizer", False, "keep optimiser state, float32 weights and KL reference in CPU memory"),
    Setting("lora_rank", 0, "rank of LoRA on all trainable linear layers; 0: train the layers themselves", min=0,
            max=1024),
    Setting("lora_alpha", 16.0, "the scale of LoRA is lora_alpha / lora_rank", min=1e-3),
]  # fmt: skip
LAST = [
    Setting("lr", 0.0, "learning rate of updates; 0: 5e-6 for a checkpoint, 1e-4 for a preset", min=0.0, max=1.0),
    Setting("adam_beta1", 0.9, "AdamW's beta1, the decay of the gradient's mean", min=0.0, max=0.9999),
    Setting("adam_beta2", 0.95, "AdamW's beta2, the decay of the squared gradient's mean (0.95: as in openpi)", min=0.0,
            max=0.99999),
    Setting("weight_decay", 0.01, "AdamW's weight decay (0.01: as in lerobot)", min=0.0, max=1.0),
    Setting("grad_clip", 1.0, "maximum norm of the gradient (1: as in openpi); 0: no clipping", min=0.0),
    Setting("mini_batch", 256, "chunks in a mini-batch if update.mini_batch is 0", min=1),
    Setting("mean", "trajectory", "weighting of the loss: trajectory: all trajectories weigh the same; ratio: all "
            "ratios weigh the same", choices=("trajectory", "ratio")),
    Setting("imitate_lr", 0.0, "maximum learning rate of imitation; 0: 2.5e-5 for a checkpoint (as in openpi), 1e-3 "
            "for a preset", min=0.0, max=1.0),
    Setting("imitate_steps", 0, "optimiser steps of imitation if imitate.steps is 0; 0: 30000 for a checkpoint (as in "
            "openpi), 300 for a preset", min=0),
    Setting("imitate_batch", 0, "samples per optimiser step of imitation; 0: 32 for a checkpoint (as in openpi), 8 for "
            "a preset", min=0, max=4096),
    Setting("imitate_micro_batch", 0, "samples per forward pass of imitation; 0: micro_batch on cuda, 8 on a CPU",
            min=0, max=4096),
    Setting("imitate_decay", "cosine", "decay of imitation's learning rate after a warm-up of 1/30 of the steps: "
            "cosine to a tenth (as in openpi), or none", choices=("cosine", "none")),
    Setting("record_mb", 4096, "maximum memory for recorded chunks in MiB; a 256 x 256 image takes 0.2", min=1),
    Setting("demo_mb", 4096, "maximum memory for demonstrations in MiB", min=1),
    Setting("rollback_mb", 4096, "a failed update is undone if weights and optimiser state take at most this many MiB",
            min=0),
    Setting("save_merged", True, "with LoRA: also save merged weights, which lerobot loads; false: only the adapter"),
]  # fmt: skip
