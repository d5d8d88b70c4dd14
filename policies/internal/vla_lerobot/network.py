"""What pi0 and pi0-fast have in common: a checkpoint loaded into lerobot's network, with tokenizer, cameras and
statistics; batches of fixed shape.
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
from vla_lerobot.sizes import built

PREFIX = "model."  # of tensors in lerobot's files
IMAGES = "observation.images."


@dataclass(frozen=True)
class Choice:
    """How a network is to be run; the plugin's settings that matter here.

    Args:
        rank, alpha: of LoRA; rank 0: without.
        expert: only what is not the vision-language model learns (pi0).
        statistics: "auto", "keep" or "compute".
        seed: of what is new: adapters, a noise head.
        own: settings of the one plugin.
    """

    dtype: torch.dtype
    device: torch.device
    micro_batch: int
    compile: bool
    checkpointing: bool
    rank: int
    alpha: float
    expert: bool
    statistics: str
    seed: int
    chunk: int
    cameras: str
    relative: str
    tokenizer: str
    own: dict[str, Any] = field(default_factory=dict)


@dataclass
class Sample:
    """One thing to look at.

    Args:
        frames: uint8 [H, W, 3], as the cameras gave them, in the order of `Network.cameras`.
        state: float32 [S], proprio in the env's units.
        ids: the prompt, not padded.
        acted: what was chosen, by network; None: nothing yet.
    """

    frames: tuple[np.ndarray, ...]
    state: np.ndarray
    ids: tuple[int, ...]
    acted: Any = None

    @property
    def bytes(self) -> int:
        acted = 0 if self.acted is None else self.acted.bytes
        return sum(f.nbytes for f in self.frames) + self.state.nbytes + 8 * len(self.ids) + acted


@dataclass
class Batch:
    """Samples as lerobot's networks take them.

    Args:
        images, image_masks: float32 [B, 3, S, S] in -1 to 1 and bool [B], by camera; cameras that are not there last.
        tokens, masks: int64 and bool [B, L].
        state: float32 [B, max_state_dim], normalised and padded.
    """

    images: list[torch.Tensor]
    image_masks: list[torch.Tensor]
    tokens: torch.Tensor
    masks: torch.Tensor
    state: torch.Tensor

    @property
    def seen(self) -> tuple[list[torch.Tensor], list[torch.Tensor], torch.Tensor, torch.Tensor]:
        return self.images, self.image_masks, self.tokens, self.masks


@dataclass
class Acted:
    """A chunk that was chosen.

    Args:
        actions: float32 [chunk, D], the env's, not clipped.
        positions: float32 [chunk], log-probabilities as the host gets them.
        terms: float32 [T], the finest log-probabilities, which an update's ratio is made of.
        sample: with what was chosen.
    """

    actions: np.ndarray
    positions: np.ndarray
    terms: np.ndarray
    sample: Sample


class Trunk(nn.Module):
    """What has parameters: lerobot's network under the name that its files use, and what srpo adds."""

    def __init__(self, model: nn.Module, noise: nn.Module | None):
        super().__init__()
        self.model = model
        self.noise = noise


class Network:
    """A checkpoint, loaded. Subclasses say which network it is, how it acts and what an update needs.

    Args:
        folder: where it lies.
        choice: how to run it.
        env: what it acts in.
    """

    kind: str
    module: ModuleType
    config_class: type
    make_processors: Callable[..., tuple[Any, Any]]

    def __init__(self, folder: str, choice: Choice, env: srpo.EnvSpec):
        self.choice, self.env = choice, env
        self.source = checkpoint.read_source(folder, self.kind, self.config_class)
        self.config = self.source.config
        self._fit(folder)
        if not 0 <= choice.chunk <= self.config.chunk_size:
            raise srpo.Error(
                "invalid",
                f"chunk is {choice.chunk}, the checkpoint plans {self.config.chunk_size} actions",
                place="setting chunk",
                hint=f"give 1 to {self.config.chunk_size}, or 0",
            )
        self.chunk = choice.chunk or self.config.n_action_steps
        self.cameras = self._cameras()
        self.tokenizer = self._tokenizer()
        self.use_statistics(self.source.statistics)
        self.config.dtype = "bfloat16" if choice.dtype == torch.bfloat16 else "float32"
        with built(self.module, self.source.sizes, self.config.image_resolution[0]), no_init_weights():
            model = self.build(self.config, self.tokenizer)
        self.fingerprint = checkpoint.load_weights(model, folder, PREFIX, lambda n: not self._learns(n))
        self.trunk = Trunk(model, self._noise())
        self._read_noise(folder)
        self.trunk.to(choice.device)
        self.model = self.trunk.model
        self.parameters = sum(p.numel() for p in model.parameters())
        self._choose_what_learns()
        self.trunk.eval()
        if choice.checkpointing:
            self.model.gradient_checkpointing_enable()
            self.trunk.train()  # lerobot computes activations twice in training mode only; there is no dropout
        if choice.compile:
            joined = self.model.paligemma_with_expert
            joined.forward = torch.compile(joined.forward)

    # What a subclass says.

    @staticmethod
    def build(config: Any, tokenizer: Any) -> nn.Module:
        """lerobot's network, with any weights."""
        raise NotImplementedError

    def _noise(self) -> nn.Module | None:
        """A noise head of its own, where the method asks for one."""
        return None

    def _noise_file(self, folder: str) -> str:
        return os.path.join(folder, "noise_head.safetensors")

    def _read_noise(self, folder: str) -> None:
        """Fills the noise head from the folder, if there is one."""

    def _learns(self, name: str) -> bool:
        """Whether a parameter is used at all."""
        return True

    def text(self, instruction: str, state: np.ndarray) -> str:
        """The prompt for an instruction and a normalised state."""
        raise NotImplementedError

    # How a checkpoint and an env fit.

    @property
    def dim(self) -> int:
        """Dimensions of an action."""
        return self.env.action.dim

    def _fit(self, folder: str) -> None:
        c, place = self.config, os.path.join(folder, checkpoint.CONFIG)
        compute = self.choice.statistics == "compute"
        if c.action_feature_names is None and c.use_relative_actions:
            c.action_feature_names = list(self.env.action.names)
        for features, key, have, names in (
            (c.output_features, ACTION, self.env.action.dim, self.env.action.names),
            (c.input_features, STATE, len(self.env.proprio) or 1, self.env.proprio),
        ):
            want = features[key].shape[0]
            most = c.max_action_dim if key == ACTION else c.max_state_dim
            if have == want or (compute and have <= most):
                features[key] = type(features[key])(features[key].type, (have,))
                continue
            what = "action dimensions" if key == ACTION else "numbers of state (proprio)"
            raise srpo.Error(
                "mismatch",
                f"the checkpoint has {want} {what}, the env has {len(names)}: {', '.join(names) or 'none'}",
                place=place,
                hint="choose an env with the actions and proprio that the checkpoint was trained for"
                + (', or fine-tune: statistics = "compute" and imitate first' if have <= most else ""),
            )

    def _cameras(self) -> list[str]:
        """The env's camera for each picture of the network that there is one for, in the network's order; the features
        are rearranged likewise, those without a camera last, as lerobot does.
        """
        features = [k for k, f in self.config.input_features.items() if k.startswith(IMAGES)]
        if not features:
            raise srpo.Error("mismatch", "the checkpoint names no camera", place=self.source.folder)
        given: dict[str, str] = {}
        if self.choice.cameras:
            for part in self.choice.cameras.split(","):
                name, _, camera = (x.strip() for x in part.partition("="))
                name = name if name.startswith(IMAGES) else IMAGES + name
                if name not in features or not camera:
                    raise srpo.Error(
                        "invalid",
                        f"{part.strip()!r} is none of the checkpoint's pictures with a camera",
                        place="setting cameras",
                        hint=f"PICTURE=CAMERA, separated by commas; pictures: "
                        f"{', '.join(f.removeprefix(IMAGES) for f in features)}",
                    )
                try:
                    given[name] = self.env.camera(camera).name
                except srpo.Error as e:
                    raise e.at("setting cameras") from e
        else:
            given[features[0]] = self.env.camera("").name
            wrist = next((c.name for c in self.env.cameras if c.view == "wrist"), "")
            second = [f for f in features[1:] if "empty_camera" not in f]
            if wrist and second:
                given[next((f for f in second if "wrist" in f), second[0])] = wrist
        self.pictures = len(features)
        return [given[f] for f in features if f in given]

    def _tokenizer(self) -> Any:
        name = self.choice.tokenizer
        files = checkpoint.tokenizer_files(name, checkpoint.TOKENIZER) if name else self.source.tokenizer
        if not files and not name:
            files = self._cached_tokenizer()
        if not files:
            raise srpo.Error(
                "not found",
                "PaliGemma's tokenizer is not there",
                place=name or self.source.folder,
                hint="bring tokenizer.json, tokenizer_config.json and special_tokens_map.json of "
                "google/paligemma-3b-pt-224 into a folder tokenizer/ of the checkpoint, or set tokenizer to theirs",
            )
        self.source.tokenizer = files
        try:
            return checkpoint.text_tokenizer(files)
        except Exception as e:  # transformers raises what it likes
            raise srpo.Error("corrupt", f"the tokenizer cannot be read: {e}", place=name or self.source.folder) from e

    def _cached_tokenizer(self) -> dict[str, bytes]:
        from huggingface_hub import snapshot_download

        try:
            return checkpoint.tokenizer_files(
                snapshot_download("google/paligemma-3b-pt-224", local_files_only=True), checkpoint.TOKENIZER
            )
        except Exception:
            return {}

    def use_statistics(self, statistics: dict) -> None:
        """Takes over statistics; missing ones are an error, but stand in for the env's range where imitation is to
        compute them.
        """
        of = {k: dict(v) for k, v in statistics.items()}
        mode = {str(getattr(k, "value", k)): v.value for k, v in self.config.normalization_mapping.items()}
        state_dim = self.config.input_features[STATE].shape[0]
        for key, dim, low, high in (
            (ACTION, self.dim, self.env.action.low, self.env.action.high),
            (STATE, state_dim, [-1.0] * state_dim, [1.0] * state_dim),
        ):
            kind = mode["ACTION" if key == ACTION else "STATE"]
            have = of.get(key, {})
            fits = all(n in have and np.asarray(have[n]).size == dim for n in normalise.NEEDED.get(kind, ()))
            if self.choice.statistics == "compute" and not fits:
                of[key] = normalise.ranges(np.array(low), np.array(high))
        self.actions = normalise.normaliser(of, ACTION, mode["ACTION"], self.dim, self.source.place)
        self.states = normalise.normaliser(of, STATE, mode["STATE"], state_dim, self.source.place)
        self.source.statistics = of
        self.relative = self._relative()

    def _relative(self) -> np.ndarray:
        """bool [D]: dimensions whose action is counted from the state."""
        way, dim = self.choice.relative, self.dim
        if way == "all-but-last":
            return np.arange(dim) < dim - 1
        if way == "none" or not self.config.use_relative_actions:
            return np.zeros(dim, bool)
        from lerobot.processor import RelativeActionsProcessorStep

        step = RelativeActionsProcessorStep(
            enabled=True,
            exclude_joints=self.config.relative_exclude_joints,
            action_names=self.config.action_feature_names,
        )
        return np.array(step._build_mask(dim), bool)

    @property
    def measured(self) -> bool:
        return checkpoint.measured(self.source.statistics)

    def to_env(self, normal: np.ndarray, state: np.ndarray) -> np.ndarray:
        """Normalised actions [N, D] at a state (the env's) to the env's, float32."""
        out = self.actions.data(normal)
        if self.relative.any():
            out = out + np.where(self.relative, self._base(state), 0)
        return out.astype(np.float32)

    def data(self, actions: np.ndarray, state: np.ndarray) -> np.ndarray:
        """The env's actions [N, D] at a state as the data set holds them."""
        return np.asarray(actions - np.where(self.relative, self._base(state), 0), np.float32)

    def _base(self, state: np.ndarray) -> np.ndarray:
        n = int(np.flatnonzero(self.relative).max(initial=-1)) + 1
        if n > len(state):
            raise srpo.Error(
                "mismatch",
                f"{n} actions are counted from the state, which has {len(state)} numbers",
                place="setting relative",
                hint='set relative = "none"',
            )
        return np.concatenate([state[:n], np.zeros(self.dim - n, np.float32)])

    # What learns.

    def _choose_what_learns(self) -> None:
        c = self.choice
        vlm = "model.paligemma_with_expert.paligemma."

        def among(name: str) -> bool:
            return self._learns(name) and not (c.expert and name.startswith(vlm))

        if c.rank:
            lora.adapt(self.trunk, c.rank, c.alpha, c.seed, lambda name: name.startswith(PREFIX) and among(name))
            if self.trunk.noise is not None:
                self.trunk.noise.requires_grad_(True)
        else:
            for name, p in self.trunk.named_parameters():
                p.requires_grad_(among(name))

    def weights(self) -> Iterator[tuple[str, Callable[[], torch.Tensor]]]:
        """(name as in lerobot's file, maker of the tensor), adapters merged."""
        return ((n, make) for n, _, make in lora.whole(self.trunk) if n.startswith(PREFIX))

    # Samples.

    def sample(self, frames: Sequence[np.ndarray], state: np.ndarray | None, instruction: str) -> Sample:
        """Raises `srpo.Error` for pictures or proprio that cannot be used, or tokens beyond the vocabulary."""
        want = self.config.input_features[STATE].shape[0]
        if state is None or not len(self.env.proprio):
            state = np.zeros(want, np.float32)
        state = np.array(state, np.float32)
        if state.shape != (want,) or not np.isfinite(state).all():
            raise srpo.Error("invalid", f"proprio is {list(state.shape)}, want {want} finite numbers")
        ids = self.ids(self.text(instruction, self.states.normal(state)))
        return Sample(tuple(np.array(f) for f in frames), state, ids)

    def ids(self, text: str) -> tuple[int, ...]:
        found = self.tokenizer(text, max_length=self.config.tokenizer_max_length, truncation=True)["input_ids"]
        rows = self.model.paligemma_with_expert.paligemma.get_input_embeddings().num_embeddings
        if not found or max(found) >= rows:
            raise srpo.Error(
                "corrupt",
                f"the tokenizer gives token {max(found, default=-1)}, the model knows {rows}",
                place=self.source.folder,
                hint="the tokenizer belongs to another model: take PaliGemma's",
            )
        return tuple(found)

    def slices(self, count: int, most: int = 0) -> Iterator[list[int]]:
        """Indices of samples that share a forward pass, at most micro_batch of them, or most."""
        size = most or self.choice.micro_batch
        return (list(range(at, min(at + size, count))) for at in range(0, count, size))

    def passes(self, samples: Sequence[Sample]) -> Iterator[list[int]]:
        """Indices of samples that acting takes in one forward pass."""
        return self.slices(len(samples))

    def batches(self, samples: Sequence[Sample], most: int = 0) -> Iterator[list[int]]:
        """Indices of chosen samples that share a forward pass. All shapes are fixed by the checkpoint and what the
        sample itself chose, and `tensors` fills incomplete batches up, so no sample depends on its batch.
        """
        return self.slices(len(samples), most)

    def full(self, samples: Sequence[Any]) -> list[Any]:
        """Filled up to micro_batch by copies of the first."""
        return [*samples, *[samples[0]] * (self.choice.micro_batch - len(samples))]

    def tensors(self, samples: Sequence[Sample]) -> Batch:
        """Samples, as they are, on the device."""
        device, side = self.choice.device, self.config.image_resolution
        images = []
        for n in range(len(self.cameras)):
            rows = []
            for s in samples:
                x = torch.from_numpy(s.frames[n]).to(torch.float32)[None] / 255
                if tuple(x.shape[1:3]) != tuple(side):
                    x = resize_with_pad_torch(x, *side)
                rows.append((x * 2.0 - 1.0).permute(0, 3, 1, 2))
            images.append(torch.cat(rows).contiguous().to(device))
        masks = [torch.ones(len(samples), dtype=torch.bool, device=device) for _ in images]
        for _ in range(self.pictures - len(self.cameras)):
            images.append(torch.full_like(images[0], -1))
            masks.append(torch.zeros_like(masks[0]))
        length = self.config.tokenizer_max_length
        tokens = torch.full((len(samples), length), self.tokenizer.pad_token_id or 0)
        for row, s in zip(tokens, samples):
            row[: len(s.ids)] = torch.tensor(s.ids)
        known = torch.arange(length)[None] < torch.tensor([len(s.ids) for s in samples])[:, None]
        state = torch.zeros(len(samples), self.config.max_state_dim)
        for row, s in zip(state, samples):
            row[: len(s.state)] = torch.from_numpy(self.states.normal(s.state))
        return Batch(images, masks, tokens.to(device), known.to(device), state.to(device))
