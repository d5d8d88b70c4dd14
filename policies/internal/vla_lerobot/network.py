"""What pi0 and pi0-fast have in common: a checkpoint loaded into lerobot's network, with tokenizer, cameras and
statistics, and batches of fixed shape.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import numpy as np
import srpo_sdk as srpo
import torch
from lerobot.policies.common.vla_utils import resize_with_pad_torch
from torch import nn
from transformers.initialization import no_init_weights

from vla import lora
from vla_lerobot import checkpoint, normalise
from vla_lerobot.normalise import ACTION, STATE
from vla_lerobot.sizes import patched

PREFIX = "model."  # of tensor names in lerobot's files
IMAGES = "observation.images."


@dataclass(frozen=True)
class NetworkOptions:
    """How to run a network: the plugin's settings that matter here.

    Args:
        rank, alpha: of LoRA; rank 0: without.
        expert_only: the vision-language model is not trained (pi0).
        statistics: "auto", "keep" or "compute".
        seed: of new parameters: adapters, a noise head.
        own: the settings of only one of the plugins.
    """

    dtype: torch.dtype
    device: torch.device
    micro_batch: int
    compile: bool
    gradient_checkpointing: bool
    rank: int
    alpha: float
    expert_only: bool
    statistics: str
    seed: int
    chunk: int
    cameras: str
    relative: str
    tokenizer: str
    own: dict[str, Any] = field(default_factory=dict)


@dataclass
class Sample:
    """One observation, and the chunk that was chosen for it.

    Args:
        frames: uint8 [H, W, 3] from each camera of `Network.cameras`.
        state: float32 [S], proprio in the env's units.
        ids: token ids of the prompt, without padding.
        chosen: the chosen chunk in the form that the network needs; None: not chosen yet.
    """

    frames: tuple[np.ndarray, ...]
    state: np.ndarray
    ids: tuple[int, ...]
    chosen: Any = None

    @property
    def nbytes(self) -> int:
        chosen = 0 if self.chosen is None else self.chosen.nbytes
        return sum(f.nbytes for f in self.frames) + self.state.nbytes + 8 * len(self.ids) + chosen


@dataclass
class Batch:
    """Samples in the form that lerobot's networks take.

    Args:
        images, image_masks: for each image input float32 [B, 3, S, S] in [-1, 1] and bool [B]. Inputs without a camera
            come last and are masked.
        tokens, masks: int64 and bool [B, L].
        state: float32 [B, max_state_dim], normalised and padded.
    """

    images: list[torch.Tensor]
    image_masks: list[torch.Tensor]
    tokens: torch.Tensor
    masks: torch.Tensor
    state: torch.Tensor

    @property
    def prefix(self) -> tuple[list[torch.Tensor], list[torch.Tensor], torch.Tensor, torch.Tensor]:
        """The arguments of lerobot's `embed_prefix`."""
        return self.images, self.image_masks, self.tokens, self.masks


@dataclass
class ChosenChunk:
    """A chunk that the network has chosen.

    Args:
        actions: float32 [chunk, D], in the env's units, not clipped.
        log_probs: float32 [chunk], by action, for the host.
        term_log_probs: float32 [T], by term, see `vla.ppo.ActionDistribution`.
        sample: the observation with the chosen chunk.
    """

    actions: np.ndarray
    log_probs: np.ndarray
    term_log_probs: np.ndarray
    sample: Sample


class Trunk(nn.Module):
    """Everything that has parameters: lerobot's network as `model`, a prefix in its files, and a noise head."""

    def __init__(self, model: nn.Module, noise: nn.Module | None):
        super().__init__()
        self.model = model
        self.noise = noise


class Network:
    """A loaded checkpoint. Subclasses define lerobot's network, how it acts, and what updates and imitation need.

    Args:
        folder: of the checkpoint.
        options: how to run it.
        env: the env that it acts in.

    Raises:
        srpo.Error: for a folder that is not a usable checkpoint, or does not fit the env.
    """

    kind: str  # lerobot's policy type
    modelling: ModuleType  # lerobot's module with the network's classes
    config_class: type
    make_processors: Callable[..., tuple[Any, Any]]

    def __init__(self, folder: str, options: NetworkOptions, env: srpo.EnvSpec):
        self.options, self.env = options, env
        self.source = checkpoint.read_source(folder, self.kind, self.config_class)
        self.config = self.source.config
        self._check_dimensions(folder)
        if not 0 <= options.chunk <= self.config.chunk_size:
            raise srpo.Error(
                "invalid",
                f"chunk is {options.chunk}, the checkpoint plans {self.config.chunk_size} actions",
                place="setting chunk",
                hint=f"give 1 to {self.config.chunk_size}, or 0",
            )
        self.chunk = options.chunk or self.config.n_action_steps
        self.cameras = self._assign_cameras()
        self.tokenizer = self._load_tokenizer()
        self.use_statistics(self.source.statistics)
        self.config.dtype = "bfloat16" if options.dtype == torch.bfloat16 else "float32"
        with patched(self.modelling, self.source.sizes, self.config.image_resolution[0]), no_init_weights():
            model = self.build(self.config, self.tokenizer)
        self.fingerprint = checkpoint.load_weights(model, folder, PREFIX, lambda n: not self._is_used(n))
        self.trunk = Trunk(model, self._new_noise())
        self.load_noise(folder)
        self.trunk.to(options.device)
        self.model = self.trunk.model
        self.parameters = sum(p.numel() for p in model.parameters())
        self._select_trainable()
        self.trunk.eval()
        if options.gradient_checkpointing:
            self.model.gradient_checkpointing_enable()
            self.trunk.train()  # lerobot checkpoints in training mode only; the model has no dropout
        if options.compile:
            joined = self.model.paligemma_with_expert
            joined.forward = torch.compile(joined.forward)

    # For subclasses.

    @staticmethod
    def build(config: Any, tokenizer: Any) -> nn.Module:
        """Returns lerobot's network with any weights."""
        raise NotImplementedError

    def _new_noise(self) -> nn.Module | None:
        """Returns a noise head if the network has one."""
        return None

    def noise_file(self, folder: str) -> str:
        return os.path.join(folder, "noise_head.safetensors")

    def load_noise(self, folder: str) -> None:
        """Loads the noise head from the folder, if there is one."""

    def _is_used(self, name: str) -> bool:
        """Whether the network uses the parameter of this name."""
        return True

    def text(self, instruction: str, state: np.ndarray) -> str:
        """The prompt for an instruction and a normalised state."""
        raise NotImplementedError

    def check_examples(self, examples: Sequence[Any]) -> None:
        """Checks that the network can represent the actions of demonstrations, see `imitation.Example`.

        Raises:
            srpo.Error: "invalid" if it cannot.
        """

    def imitation_target(
        self, sample: Sample, actions: np.ndarray, weights: np.ndarray | None, rng: np.random.Generator
    ) -> tuple[Any, float]:
        """Returns (target, weight) for imitation.

        Args:
            actions: the actions after the sample, [N, D] in the env's units. If N is less than the chunk, the last one
                is repeated, as in lerobot's data sets.
            weights: a factor on the loss of each action, [N]; None: all 1.

        Returns:
            target: for `imitation_losses`.
            weight: of the sample in the mean over a batch.
        """
        raise NotImplementedError

    def imitation_losses(self, part: Sequence[tuple[Sample, Any]]) -> torch.Tensor:
        """Returns the losses of (sample, target) pairs, float32 [B]."""
        raise NotImplementedError

    # How the checkpoint and the env fit together.

    @property
    def dim(self) -> int:
        """Dimensions of an action."""
        return self.env.action.dim

    def _check_dimensions(self, folder: str) -> None:
        """Checks the dimensions of actions and state. With statistics = "compute" the env's dimensions are used."""
        c, place = self.config, os.path.join(folder, checkpoint.CONFIG)
        compute = self.options.statistics == "compute"
        if c.action_feature_names is None and c.use_relative_actions:
            c.action_feature_names = list(self.env.action.names)
        for features, key, actual, names in (
            (c.output_features, ACTION, self.env.action.dim, self.env.action.names),
            (c.input_features, STATE, len(self.env.proprio) or 1, self.env.proprio),
        ):
            self.source.drop_padding(key, actual)
            expected = features[key].shape[0]
            largest = c.max_action_dim if key == ACTION else c.max_state_dim
            if actual == expected or (compute and actual <= largest):
                features[key] = type(features[key])(features[key].type, (actual,))
                continue
            what = "action dimensions" if key == ACTION else "numbers of state (proprio)"
            raise srpo.Error(
                "mismatch",
                f"the checkpoint has {expected} {what}, the env has {len(names)}: {', '.join(names) or 'none'}",
                place=place,
                hint="choose an env with the actions and proprio that the checkpoint was trained for"
                + (', or fine-tune: statistics = "compute" and imitate first' if actual <= largest else ""),
            )

    def _assign_cameras(self) -> list[str]:
        """Returns the env's cameras for the image inputs of the network, in the network's order. Inputs without a
        camera are left out; lerobot puts these last.
        """
        features = [k for k, f in self.config.input_features.items() if k.startswith(IMAGES)]
        if not features:
            raise srpo.Error("mismatch", "the checkpoint has no image input", place=self.source.folder)
        assigned: dict[str, str] = {}
        if self.options.cameras:
            for part in self.options.cameras.split(","):
                name, _, camera = (x.strip() for x in part.partition("="))
                name = name if name.startswith(IMAGES) else IMAGES + name
                if name not in features or not camera:
                    raise srpo.Error(
                        "invalid",
                        f"{part.strip()!r} does not assign a camera to an image input of the checkpoint",
                        place="setting cameras",
                        hint=f"give IMAGE=CAMERA, separated by commas; image inputs: "
                        f"{', '.join(f.removeprefix(IMAGES) for f in features)}",
                    )
                try:
                    assigned[name] = self.env.camera(camera).name
                except srpo.Error as e:
                    raise e.at("setting cameras") from e
        else:
            assigned[features[0]] = self.env.camera("").name
            wrist = next((c.name for c in self.env.cameras if c.view == "wrist"), "")
            others = [f for f in features[1:] if "empty_camera" not in f]
            if wrist and others:
                assigned[next((f for f in others if "wrist" in f), others[0])] = wrist
        self.image_inputs = len(features)
        return [assigned[f] for f in features if f in assigned]

    def _load_tokenizer(self) -> Any:
        folder = self.options.tokenizer
        files = checkpoint.tokenizer_files(folder, checkpoint.TOKENIZER) if folder else self.source.tokenizer
        if not files and not folder:
            files = self._cached_tokenizer()
        if not files:
            raise srpo.Error(
                "not found",
                "PaliGemma's tokenizer is missing",
                place=folder or self.source.folder,
                hint="copy tokenizer.json, tokenizer_config.json and special_tokens_map.json of "
                "google/paligemma-3b-pt-224 into tokenizer/ of the checkpoint, or set tokenizer to their folder",
            )
        self.source.tokenizer = files
        try:
            return checkpoint.text_tokenizer(files)
        except Exception as e:  # transformers raises exceptions of many types
            raise srpo.Error("corrupt", f"the tokenizer cannot be read: {e}", place=folder or self.source.folder) from e

    def _cached_tokenizer(self) -> dict[str, bytes]:
        from huggingface_hub import snapshot_download

        try:
            return checkpoint.tokenizer_files(
                snapshot_download("google/paligemma-3b-pt-224", local_files_only=True), checkpoint.TOKENIZER
            )
        except Exception:
            return {}

    def use_statistics(self, statistics: dict) -> None:
        """Replaces the statistics. Missing ones are an error, unless imitation is to compute them: until then the env's
        ranges are used.

        Raises:
            srpo.Error: see `normalise.make_normaliser`.
        """
        used = {k: dict(v) for k, v in statistics.items()}
        mode = {str(getattr(k, "value", k)): v.value for k, v in self.config.normalization_mapping.items()}
        state_dim = self.config.input_features[STATE].shape[0]
        for key, dim, low, high in (
            (ACTION, self.dim, self.env.action.low, self.env.action.high),
            (STATE, state_dim, [-1.0] * state_dim, [1.0] * state_dim),
        ):
            kind = mode["ACTION" if key == ACTION else "STATE"]
            values = used.get(key, {})
            fits = all(n in values and np.asarray(values[n]).size == dim for n in normalise.NEEDED.get(kind, ()))
            if self.options.statistics == "compute" and not fits:
                used[key] = normalise.range_statistics(np.array(low), np.array(high))
        self.actions = normalise.make_normaliser(used, ACTION, mode["ACTION"], self.dim, self.source.place)
        self.states = normalise.make_normaliser(used, STATE, mode["STATE"], state_dim, self.source.place)
        self.source.statistics = used
        self.relative = self._relative_dimensions()

    def _relative_dimensions(self) -> np.ndarray:
        """bool [D]: which dimensions of an action are relative to the state."""
        setting, dim = self.options.relative, self.dim
        if setting == "all-but-last":
            return np.arange(dim) < dim - 1
        if setting == "none" or not self.config.use_relative_actions:
            return np.zeros(dim, bool)
        from lerobot.processor import RelativeActionsProcessorStep

        step = RelativeActionsProcessorStep(
            enabled=True,
            exclude_joints=self.config.relative_exclude_joints,
            action_names=self.config.action_feature_names,
        )
        return np.array(step._build_mask(dim), bool)

    @property
    def has_data_statistics(self) -> bool:
        """Whether the statistics were computed from data; else they are the env's ranges."""
        return checkpoint.has_data_statistics(self.source.statistics)

    def to_env(self, normalised: np.ndarray, state: np.ndarray) -> np.ndarray:
        """Normalised actions [N, D] at a state (in the env's units) to float32 [N, D] in the env's units."""
        out = self.actions.unnormalise(normalised)
        if self.relative.any():
            out = out + np.where(self.relative, self._offset(state), 0)
        return out.astype(np.float32)

    def to_data(self, actions: np.ndarray, state: np.ndarray) -> np.ndarray:
        """The env's actions [N, D] at a state as the data set stores them, float32 [N, D]."""
        return np.asarray(actions - np.where(self.relative, self._offset(state), 0), np.float32)

    def _offset(self, state: np.ndarray) -> np.ndarray:
        """What relative dimensions are relative to, [D]."""
        n = int(np.flatnonzero(self.relative).max(initial=-1)) + 1
        if n > len(state):
            raise srpo.Error(
                "mismatch",
                f"{n} action dimensions are relative to the state, which has {len(state)} numbers",
                place="setting relative",
                hint='set relative = "none"',
            )
        return np.concatenate([state[:n], np.zeros(self.dim - n, np.float32)])

    # Parameters.

    def _select_trainable(self) -> None:
        options = self.options
        vlm = "model.paligemma_with_expert.paligemma."

        def trainable(name: str) -> bool:
            return self._is_used(name) and not (options.expert_only and name.startswith(vlm))

        if options.rank:
            lora.add_adapters(
                self.trunk,
                options.rank,
                options.alpha,
                options.seed,
                lambda name: name.startswith(PREFIX) and trainable(name),
            )
            if self.trunk.noise is not None:
                self.trunk.noise.requires_grad_(True)
        else:
            for name, p in self.trunk.named_parameters():
                p.requires_grad_(trainable(name))

    def weights(self) -> Iterator[tuple[str, Callable[[], torch.Tensor]]]:
        """Yields (name as in lerobot's file, function that returns the tensor), adapters merged."""
        return ((n, make) for n, _, make in lora.merged_parameters(self.trunk) if n.startswith(PREFIX))

    # Samples.

    def sample(self, frames: Sequence[np.ndarray], state: np.ndarray | None, instruction: str) -> Sample:
        """Makes a sample of an observation.

        Args:
            frames: see `Sample`.
            state: proprio; None: the env has none.

        Raises:
            srpo.Error: "invalid" for proprio that cannot be used, "corrupt" for a token outside the vocabulary.
        """
        expected = self.config.input_features[STATE].shape[0]
        if state is None or not len(self.env.proprio):
            state = np.zeros(expected, np.float32)
        state = np.array(state, np.float32)
        if state.shape != (expected,) or not np.isfinite(state).all():
            raise srpo.Error("invalid", f"proprio is {list(state.shape)}, want {expected} finite numbers")
        ids = self._encode(self.text(instruction, self.states.normalise(state)))
        return Sample(tuple(np.array(f) for f in frames), state, ids)

    def _encode(self, text: str) -> tuple[int, ...]:
        ids = self.tokenizer(text, max_length=self.config.tokenizer_max_length, truncation=True)["input_ids"]
        rows = self.model.paligemma_with_expert.paligemma.get_input_embeddings().num_embeddings
        if not ids or max(ids) >= rows:
            raise srpo.Error(
                "corrupt",
                f"the tokenizer returns token {max(ids, default=-1)}, but the model has {rows}",
                place=self.source.folder,
                hint="the tokenizer belongs to another model: use PaliGemma's",
            )
        return tuple(ids)

    def slices(self, count: int, size: int = 0) -> Iterator[list[int]]:
        """Yields 0 to count - 1 in lists of at most size, or micro_batch if size is 0."""
        step = size or self.options.micro_batch
        return (list(range(at, min(at + step, count))) for at in range(0, count, step))

    def act_batches(self, samples: Sequence[Sample]) -> Iterator[list[int]]:
        """Yields the indices of samples that share a forward pass in acting."""
        return self.slices(len(samples))

    def batches(self, samples: Sequence[Sample], size: int = 0) -> Iterator[list[int]]:
        """Yields the indices of samples with chosen chunks that share a forward pass.

        The shape of a batch depends only on the checkpoint and on what its samples have chosen, and incomplete batches
        are padded (`pad`). So the result for a sample does not depend on its batch.

        Args:
            size: maximum number of samples in a batch; 0: micro_batch.
        """
        return self.slices(len(samples), size)

    def pad(self, samples: Sequence[Any]) -> list[Any]:
        """Appends copies of the first sample up to micro_batch."""
        return [*samples, *[samples[0]] * (self.options.micro_batch - len(samples))]

    def batch_tensors(self, samples: Sequence[Sample]) -> Batch:
        """The samples on the device, without padding of the batch."""
        device, side = self.options.device, self.config.image_resolution
        images = []
        for n in range(len(self.cameras)):
            rows = []
            for s in samples:
                x = torch.from_numpy(s.frames[n]).to(torch.float32)[None] / 255
                if tuple(x.shape[1:3]) != tuple(side):
                    x = resize_with_pad_torch(x, *side)
                rows.append((x * 2.0 - 1.0).permute(0, 3, 1, 2))
            images.append(torch.cat(rows).contiguous().to(device))
        image_masks = [torch.ones(len(samples), dtype=torch.bool, device=device) for _ in images]
        for _ in range(self.image_inputs - len(self.cameras)):
            images.append(torch.full_like(images[0], -1))
            image_masks.append(torch.zeros_like(image_masks[0]))
        length = self.config.tokenizer_max_length
        tokens = torch.full((len(samples), length), self.tokenizer.pad_token_id or 0)
        for row, s in zip(tokens, samples):
            row[: len(s.ids)] = torch.tensor(s.ids)
        masks = torch.arange(length)[None] < torch.tensor([len(s.ids) for s in samples])[:, None]
        state = torch.zeros(len(samples), self.config.max_state_dim)
        for row, s in zip(state, samples):
            row[: len(s.state)] = torch.from_numpy(self.states.normalise(s.state))
        return Batch(images, image_masks, tokens.to(device), masks.to(device), state.to(device))
