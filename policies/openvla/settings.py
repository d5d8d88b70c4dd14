"""What srpo.toml may set under [policy.openvla]."""

from srpo_sdk import Setting

SETTINGS = [
    Setting("checkpoint", "", "folder in the published format (config.json, *.safetensors, tokenizer.json, "
            "dataset_statistics.json), or a hub id"),
    Setting("preset", "", "instead of a checkpoint: tiny (OpenVLA-OFT) or tiny-openvla, 5 million random weights for "
            "trying things out on a CPU", choices=("", "tiny", "tiny-openvla")),
    Setting("adapter", "", "folder of a LoRA adapter (peft's format) that belongs to the checkpoint"),
    Setting("adapter_mode", "merge", "merge: into the weights; keep: the adapter itself goes on learning",
            choices=("merge", "keep")),
    Setting("kind", "auto", "openvla-oft: a chunk in one pass; openvla: one action, token by token; auto: what the "
            "checkpoint says, else openvla-oft", choices=("auto", "openvla-oft", "openvla")),
    Setting("chunk", 0, "actions in a chunk of openvla-oft; 0: what the checkpoint says, else 8 (LIBERO's)", min=0,
            max=64),
    Setting("mask", "auto", "who sees whom in openvla-oft: bidirectional (as it is trained, in "
            "transformers-openvla-oft) or causal (unmodified transformers)",
            choices=("auto", "bidirectional", "causal")),
    Setting("unnorm_key", "", "data set whose action statistics are used; empty: the only one there is"),
    Setting("statistics", "auto", "action statistics in imitation: keep the checkpoint's, compute them from the "
            "demonstrations; auto: compute where there are none", choices=("auto", "keep", "compute")),
    Setting("gripper", "auto", "libero: 0 closed, 1 open in the data, by its sign -1 open, +1 closed in the env; "
            "identity: like other dimensions; auto: by what the env says", choices=("auto", "libero", "identity")),
    Setting("camera", "", "camera to look through; empty: the env's recording camera"),
    Setting("center_crop", True, "the middle 0.9 of the picture's area, as published for checkpoints trained with "
            "random crops"),
    Setting("jpeg", True, "compress and expand pictures once (quality 95), as the training data were"),
    Setting("device", "auto", "cpu, cuda or cuda:N; auto: cuda where there is one"),
    Setting("shard", "optimiser", "of several processes, what is divided among them: the optimiser (each has the whole "
            "network), or the weights and gradients as well (FSDP2), for whole-model training that does not fit "
            "otherwise", choices=("optimiser", "weights")),
    Setting("dtype", "auto", "of the network; what learns is float32. auto: bfloat16 on cuda, float32 on a CPU",
            choices=("auto", "float32", "bfloat16")),
    Setting("attention", "sdpa", "attention of the language model", choices=("sdpa", "eager")),
    Setting("threads", 1, "CPU threads; other numbers may change last digits", min=1, max=256),
    Setting("compile", False, "torch.compile: a minute at the start and for every new prompt length, faster then"),
    Setting("micro_batch", 0, "samples in a forward pass, in acting and learning alike, so that both compute the same; "
            "0: 8 on cuda, 1 on a CPU", min=0, max=1024),
    Setting("gradient_checkpointing", False, "compute activations twice instead of keeping them"),
    Setting("offload_optimizer", False, "optimiser, its float32 weights and the starting policy in the CPU's memory"),
    Setting("lora_rank", -1, "rank of LoRA on all linear layers but the head; 0: the whole model learns; -1: 32 for a "
            "checkpoint (published), 0 for a preset", min=-1, max=1024),
    Setting("lora_alpha", 16.0, "LoRA's scale is lora_alpha / lora_rank (16: published)", min=1e-3),
    Setting("lr", 0.0, "AdamW's learning rate in updates; 0: 5e-6 for a checkpoint (published, whole model), 1e-4 for "
            "a preset", min=0.0, max=1.0),
    Setting("adam_beta1", 0.9, "decay of the gradient's mean", min=0.0, max=0.9999),
    Setting("adam_beta2", 0.999, "decay of the gradient's square", min=0.0, max=0.99999),
    Setting("weight_decay", 0.01, "AdamW's", min=0.0, max=1.0),
    Setting("grad_clip", 1.0, "largest norm of the gradient (1: published); 0: no bound", min=0.0),
    Setting("mini_batch", 256, "chunks in a mini-batch when the update leaves it to the policy", min=1),
    Setting("mean", "trajectory", "of the loss: trajectory: every trajectory weighs the same (siiRL); token: every "
            "executed token does", choices=("trajectory", "token")),
    Setting("imitate_lr", 0.0, "AdamW's learning rate in imitation; 0: 5e-4 for a checkpoint (published, with LoRA), "
            "1e-3 for a preset", min=0.0, max=1.0),
    Setting("imitate_steps", 0, "gradient steps when the call leaves it to the policy; 0: 2000 for a checkpoint, 300 "
            "for a preset", min=0),
    Setting("imitate_batch", 0, "samples in a step of imitation; 0: 8 for a checkpoint, 4 for a preset", min=0,
            max=4096),
    Setting("imitate_micro_batch", 0, "of these, in a forward pass; 0: micro_batch on cuda, 4 on a CPU", min=0,
            max=4096),
    Setting("imitate_decay", "auto", "learning rate in imitation: none, or along a cosine to 0; auto: none for a "
            "checkpoint, cosine for a preset", choices=("auto", "none", "cosine")),
    Setting("imitate_tokens", "auto", "cross-entropy in imitation: over the whole vocabulary, and of the stop token "
            "(published), or over the 256 action tokens that the policy draws from; auto: vocabulary for a checkpoint, "
            "actions for a preset, whose head would else take half of the time",
            choices=("auto", "vocabulary", "actions")),
    Setting("augment", "auto", "random crops and colours in imitation; auto: on for a checkpoint (published), off for "
            "a preset, which learns much more slowly with them, as it begins with random weights",
            choices=("auto", "on", "off")),
    Setting("record_mb", 4096, "most memory for recorded chunks, MiB; 150 kB each", min=1),
    Setting("demo_mb", 4096, "most memory for demonstrations, MiB; 150 kB a step", min=1),
    Setting("rollback_mb", 4096, "an update that fails is undone if weights and optimiser take at most so many MiB",
            min=0),
    Setting("save_merged", True, "with LoRA: save whole weights that the original code loads; false: the adapter "
            "alone"),
    Setting("shard_mb", 5000, "most size of a weight file, MB", min=1),
]  # fmt: skip
