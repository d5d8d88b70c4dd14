"""The settings under [policy.openvla] in srpo.toml."""

from srpo_sdk import Setting

SETTINGS = [
    Setting("checkpoint", "", "folder in the published format (config.json, *.safetensors, tokenizer.json, "
            "dataset_statistics.json), or a hub id"),
    Setting("preset", "", "a model with 5 million random weights for trial runs on a CPU, instead of a checkpoint: "
            "tiny (OpenVLA-OFT) or tiny-openvla", choices=("", "tiny", "tiny-openvla")),
    Setting("adapter", "", "folder of a LoRA adapter in peft's format that belongs to the checkpoint"),
    Setting("adapter_mode", "merge", "merge: add the adapter to the weights; keep: train the adapter itself further",
            choices=("merge", "keep")),
    Setting("kind", "auto", "openvla-oft: a chunk of actions in one pass; openvla: one action, token by token; auto: "
            "as recorded in the checkpoint, else openvla-oft", choices=("auto", "openvla-oft", "openvla")),
    Setting("chunk", 0, "actions in a chunk of openvla-oft; 0: as recorded in the checkpoint, else 8 (as for LIBERO)",
            min=0, max=64),
    Setting("mask", "auto", "attention mask of openvla-oft: bidirectional, as in its training "
            "(transformers-openvla-oft), or causal, as in unmodified transformers; auto: bidirectional",
            choices=("auto", "bidirectional", "causal")),
    Setting("unnorm_key", "", "data set whose action statistics are used; empty: the only one in the checkpoint"),
    Setting("statistics", "auto", "action statistics in imitation: keep those of the checkpoint, or compute them from "
            "the demonstrations; auto: compute if there are none from data", choices=("auto", "keep", "compute")),
    Setting("gripper", "auto", "libero: 0 is closed and 1 open in the data, -1 is open and +1 closed in the env; "
            "identity: like other dimensions; auto: by the env's description of its actions",
            choices=("auto", "libero", "identity")),
    Setting("camera", "", "camera whose images the policy reads; empty: the env's recording camera"),
    Setting("center_crop", True, "crop the middle 0.9 of the image's area, as published for checkpoints that were "
            "trained with random crops"),
    Setting("jpeg", True, "encode images as JPEG (quality 95) and decode them, as in the training data"),
    Setting("device", "auto", "cpu, cuda or cuda:N; auto: cuda if available"),
    Setting("shard", "optimiser", "what several processes divide among them: the optimiser (each process has the whole "
            "network), or also weights and gradients (FSDP2), to train a whole model that does not fit otherwise",
            choices=("optimiser", "weights")),
    Setting("dtype", "auto", "dtype of the network; trainable parameters are float32. auto: bfloat16 on cuda, float32 "
            "on a CPU", choices=("auto", "float32", "bfloat16")),
    Setting("attention", "sdpa", "attention implementation of the language model", choices=("sdpa", "eager")),
    Setting("threads", 1, "CPU threads; another number may change the last digits of results", min=1, max=256),
    Setting("compile", False, "use torch.compile: faster, after a minute at the start and per new prompt length"),
    Setting("micro_batch", 0, "samples in a forward pass, equal in acting and learning so that both compute the same "
            "result; 0: 8 on cuda, 1 on a CPU", min=0, max=1024),
    Setting("gradient_checkpointing", False, "recompute activations in the backward pass instead of storing them"),
    Setting("offload_optimizer", False, "keep optimiser state, float32 weights and KL reference in CPU memory"),
    Setting("lora_rank", -1, "rank of LoRA on all linear layers but the head; 0: train the whole model; -1: 32 for a "
            "checkpoint (as published), 0 for a preset", min=-1, max=1024),
    Setting("lora_alpha", 16.0, "the scale of LoRA is lora_alpha / lora_rank (16: as published)", min=1e-3),
    Setting("lr", 0.0, "learning rate of updates; 0: 5e-6 for a checkpoint (as published for the whole model), 1e-4 "
            "for a preset", min=0.0, max=1.0),
    Setting("adam_beta1", 0.9, "AdamW's beta1, the decay of the gradient's mean", min=0.0, max=0.9999),
    Setting("adam_beta2", 0.999, "AdamW's beta2, the decay of the squared gradient's mean", min=0.0, max=0.99999),
    Setting("weight_decay", 0.01, "AdamW's weight decay", min=0.0, max=1.0),
    Setting("grad_clip", 1.0, "maximum norm of the gradient (1: as published); 0: no clipping", min=0.0),
    Setting("mini_batch", 256, "chunks in a mini-batch if update.mini_batch is 0", min=1),
    Setting("mean", "trajectory", "weighting of the loss: trajectory: all trajectories weigh the same (as in siiRL); "
            "token: all executed tokens weigh the same", choices=("trajectory", "token")),
    Setting("imitate_lr", 0.0, "learning rate of imitation; 0: 5e-4 for a checkpoint (as published with LoRA), 1e-3 "
            "for a preset", min=0.0, max=1.0),
    Setting("imitate_steps", 0, "optimiser steps of imitation if imitate.steps is 0; 0: 2000 for a checkpoint, 300 for "
            "a preset", min=0),
    Setting("imitate_batch", 0, "samples per optimiser step of imitation; 0: 8 for a checkpoint, 4 for a preset",
            min=0, max=4096),
    Setting("imitate_micro_batch", 0, "samples per forward pass of imitation; 0: micro_batch on cuda, 4 on a CPU",
            min=0, max=4096),
    Setting("imitate_decay", "auto", "decay of imitation's learning rate: none, or cosine to 0; auto: none for a "
            "checkpoint, cosine for a preset", choices=("auto", "none", "cosine")),
    Setting("imitate_tokens", "auto", "cross-entropy of imitation: vocabulary: over the whole vocabulary and with the "
            "stop token (as published); actions: over the 256 action tokens that the policy draws from, which halves "
            "the time of a preset; auto: vocabulary for a checkpoint, actions for a preset",
            choices=("auto", "vocabulary", "actions")),
    Setting("augment", "auto", "random crops and colours in imitation; auto: on for a checkpoint (as published), off "
            "for a preset, which starts from random weights and learns much more slowly with them",
            choices=("auto", "on", "off")),
    Setting("record_mb", 4096, "maximum memory for recorded chunks in MiB; a chunk takes 150 kB", min=1),
    Setting("demo_mb", 4096, "maximum memory for demonstrations in MiB; a step takes 150 kB", min=1),
    Setting("rollback_mb", 4096, "a failed update is undone if weights and optimiser state take at most this many MiB",
            min=0),
    Setting("save_merged", True, "with LoRA: also save merged weights, which the original code loads; false: only the "
            "adapter"),
    Setting("shard_mb", 5000, "maximum size of a weight file in MB", min=1),
]  # fmt: skip
