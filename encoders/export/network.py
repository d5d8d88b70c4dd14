"""Loads and checks networks in torch, as modules that return one vector per clip or frame."""

import os
import re

import torch
from torch import nn

from checkpoint import NETWORKS, Checkpoint, unexpected_weights
from talk import Refused

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # the files are local; transformers must not look for newer ones


class VideoMean(nn.Module):
    """V-JEPA 2: the mean over all tokens.

    forward maps normalised clips [B, T, 3, H, W] to float32 [B, dimension].
    """

    inputs, outputs = "pixel_values_videos", ("mean",)

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, pixel_values_videos):
        tokens = self.model(pixel_values_videos=pixel_values_videos, skip_predictor=True).last_hidden_state
        return tokens.float().mean(1)


class FrameTokens(nn.Module):
    """DINOv2: the class token, and the mean of the patch tokens without registers.

    forward maps normalised frames [B, 3, H, W] to two tensors, float32 [B, dimension] each.
    """

    inputs, outputs = "pixel_values", ("cls", "patches")

    def __init__(self, model):
        super().__init__()
        self.model = model
        self.skip = 1 + getattr(model.config, "num_register_tokens", 0)

    def forward(self, pixel_values):
        tokens = self.model(pixel_values=pixel_values).last_hidden_state.float()
        return tokens[:, 0], tokens[:, self.skip :].mean(1)


def load(c: Checkpoint) -> nn.Module:
    """Loads the checkpoint's network in float32, in evaluation mode.

    Raises Refused (corrupt) if transformers cannot load it, or weights are missing, of another shape, NaN or infinite;
    (mismatch) if the checkpoint has weights, other than those of a head or the predictor, that the network lacks.
    """
    import transformers

    transformers.logging.set_verbosity_error()
    kind = c.config["model_type"]
    cls = {"vjepa2": "VJEPA2Model", "dinov2": "Dinov2Model", "dinov2_with_registers": "Dinov2WithRegistersModel"}[kind]
    try:
        model, info = getattr(transformers, cls).from_pretrained(
            c.folder, dtype=torch.float32, attn_implementation="sdpa", output_loading_info=True, local_files_only=True
        )
    except MemoryError:
        raise
    except Exception as e:
        line = str(e).strip().splitlines()[0] if str(e).strip() else type(e).__name__
        raise Refused(
            "corrupt",
            f"transformers cannot load it: {line}",
            "use config.json and weights of the same checkpoint",
            str(c.folder),
        ) from e
    heads = re.compile(NETWORKS[kind]["heads"])
    wanted = [k for k in info["missing_keys"] if not heads.search(k)]
    shapes = [str(k[0] if isinstance(k, tuple) else k) for k in info.get("mismatched_keys", ())]
    for names, what in ((wanted, "lacks"), (shapes, "has other shapes than in config.json for")):
        if names:
            raise Refused(
                "corrupt",
                f"the checkpoint {what} {len(names)} of its network's weights, such as {sorted(names)[0]}",
                "use config.json and weights of the same checkpoint",
                str(c.folder),
            )
    prefix = NETWORKS[kind]["prefix"]
    unexpected = [k for k in info["unexpected_keys"] if not heads.search(k.removeprefix(prefix))]
    if unexpected:
        raise unexpected_weights(unexpected, kind, c.folder)
    for name, p in model.named_parameters():
        if not torch.isfinite(p).all():
            raise Refused(
                "corrupt",
                f"the weight {name} has {int((~torch.isfinite(p)).sum())} values that are NaN or infinite",
                "use another checkpoint: this one is damaged, or its training diverged",
                str(c.folder),
            )
    if kind == "vjepa2":
        model.predictor = None  # unused
    model.requires_grad_(False)
    return (VideoMean if kind == "vjepa2" else FrameTokens)(model).eval()


def frames_of(c: Checkpoint, wanted: int | None) -> int:
    """The number of frames per clip: wanted or, if it is None, that of config.json. Raises Refused (invalid)."""
    if c.family != "vjepa2":
        if wanted is not None:
            raise Refused(
                "invalid",
                f"{c.family} embeds single frames, so its model has no number of frames",
                "leave --frames out",
            )
        return 1
    tubelet = c.config.get("tubelet_size", 2)
    frames = c.config.get("frames_per_clip", 64) if wanted is None else wanted
    if frames < tubelet or frames % tubelet:
        raise Refused(
            "invalid",
            f"{frames} frames per clip are not a multiple of the checkpoint's tubelet of {tubelet}",
            f"--frames {max(tubelet, frames - frames % tubelet)}",
        )
    return frames


def example(wrapper, frames: int, crop: int, batch: int) -> torch.Tensor:
    """Normalised noise in the network's input shape, float32 [batch, ...]."""
    shape = (batch, frames, 3, crop, crop) if isinstance(wrapper, VideoMean) else (batch, 3, crop, crop)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def prepare(wrapper, frames: int, crop: int, half: bool) -> None:
    """Prepares the network for export, in place: values that depend only on sizes are computed once, here.

    The rotary tables of V-JEPA 2 become two buffers that all layers share. The position embeddings of DINOv2 are
    interpolated to the grid of the crop. With half, weights and arithmetic become float16. The tables are computed in
    float32 first, because float16 has too few digits for positions times frequencies.
    """
    model = wrapper.model
    if isinstance(wrapper, VideoMean):
        cos, sin = rotary_tables(model.config, frames)
        if half:
            model.half()
            cos, sin = cos.half(), sin.half()
        for layer in model.encoder.layer:
            attention = layer.attention
            attention.register_buffer("cos", cos, persistent=False)
            attention.register_buffer("sin", sin, persistent=False)
            attention.get_position_ids = lambda x, masks=None: None
            attention.apply_rotary_embeddings = lambda x, _, a=attention: rotate(x, a.cos, a.sin)
        return
    embeddings = model.embeddings
    patch = embeddings.patch_embeddings.patch_size
    grid = (crop // patch[0]) * (crop // patch[1])
    with torch.no_grad():
        tokens = torch.zeros(1, grid + 1, model.config.hidden_size)
        table = embeddings.interpolate_pos_encoding(tokens, crop, crop).clone()
    if half:
        model.half()
        table = table.half()
    embeddings.position_embeddings = nn.Parameter(table, requires_grad=False)
    embeddings.interpolate_pos_encoding = lambda *_: embeddings.position_embeddings


def rotary_tables(config, frames: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosine and sine for each token and each dimension of a head, float32 [tokens, head size] each.

    The dimensions of a head are three parts of equal, even length for depth, height and width, and a rest that is not
    rotated. In a part of d dimensions the angle of dimension i is position / 10000^((i mod d/2) / (d/2)). Like the
    published network, this repeats the frequencies as a block, although rotated pairs are neighbours.
    """
    side = config.crop_size // config.patch_size
    ids = torch.arange(frames // config.tubelet_size * side * side)
    head = config.hidden_size // config.num_attention_heads
    part = 2 * (head // 3 // 2)
    angles = torch.zeros(len(ids), head)
    frequency = 1.0 / 10000 ** (torch.arange(part // 2, dtype=torch.float32) / (part / 2.0))
    for i, position in enumerate((ids // side**2, ids % side**2 // side, ids % side)):
        angles[:, i * part : (i + 1) * part] = (position[:, None] * frequency).repeat(1, 2)
    return angles.cos(), angles.sin()


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotates each pair of neighbouring dimensions of x [..., tokens, head size] by the angles of the tables."""
    even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
    return x * cos + torch.stack((-odd, even), -1).flatten(-2) * sin
