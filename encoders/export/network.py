"""The networks in torch: loaded and looked through, as modules that give one vector a clip or frame."""

import os

import torch
from torch import nn

from checkpoint import Checkpoint
from talk import Refused

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # the files are here: nothing is to be asked of a network any more


class VideoMean(nn.Module):
    """V-JEPA 2: the mean over all tokens.

    forward takes normalised frames [B, T, 3, H, W] and gives float32 [B, dimension].
    """

    inputs, outputs = "pixel_values_videos", ("mean",)

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, pixel_values_videos):
        tokens = self.model(pixel_values_videos=pixel_values_videos, skip_predictor=True).last_hidden_state
        return tokens.float().mean(1)


class FrameTokens(nn.Module):
    """DINOv2: the class token, and the mean of the patch tokens (registers left out).

    forward takes normalised frames [B, 3, H, W] and gives two tensors, float32 [B, dimension] each.
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
    """The checkpoint's network in float32, ready to be called.

    Raises Refused: corrupt (weights missing, of another shape, NaN or infinite), invalid (config.json).
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
            "see that config.json and the weights are of one checkpoint",
            str(c.folder),
        ) from e
    wanted = [k for k in info["missing_keys"] if not k.startswith("predictor.")]
    shapes = [str(k[0] if isinstance(k, tuple) else k) for k in info.get("mismatched_keys", ())]
    for names, what in ((wanted, "lacks"), (shapes, "has other shapes than config.json says for")):
        if names:
            raise Refused(
                "corrupt",
                f"the checkpoint {what} {len(names)} of its network's weights, such as {sorted(names)[0]}",
                "see that config.json and the weights are of one checkpoint",
                str(c.folder),
            )
    for name, p in model.named_parameters():
        if not torch.isfinite(p).all():
            raise Refused(
                "corrupt",
                f"the weight {name} has {int((~torch.isfinite(p)).sum())} values that are NaN or infinite",
                "take another checkpoint: this one was damaged, or its training diverged",
                str(c.folder),
            )
    if kind == "vjepa2":
        model.predictor = None  # never asked
    model.requires_grad_(False)
    return (VideoMean if kind == "vjepa2" else FrameTokens)(model).eval()


def frames_of(c: Checkpoint, wanted: int | None) -> int:
    """Frames a clip: as in config.json, or as asked for. Raises Refused (invalid)."""
    if c.family != "vjepa2":
        if wanted is not None:
            raise Refused(
                "invalid",
                f"{c.family} looks at single frames, whose number is no part of the model",
                "leave --frames out",
            )
        return 1
    tubelet = c.config.get("tubelet_size", 2)
    frames = c.config.get("frames_per_clip", 64) if wanted is None else wanted
    if frames < tubelet or frames % tubelet:
        raise Refused(
            "invalid",
            f"{frames} frames a clip is no multiple of the checkpoint's tubelet of {tubelet}",
            f"--frames {max(tubelet, frames - frames % tubelet)}",
        )
    return frames


def example(wrapper, frames: int, crop: int, batch: int) -> torch.Tensor:
    """Normalised noise of the network's input shape."""
    shape = (batch, frames, 3, crop, crop) if isinstance(wrapper, VideoMean) else (batch, 3, crop, crop)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def prepare(wrapper, frames: int, crop: int, half: bool) -> None:
    """Makes the network ready to be exported, in place: what depends on sizes only is computed once, here.

    V-JEPA 2's rotary tables become two buffers that all layers share instead of arithmetic in each; DINOv2's position
    embeddings are interpolated to the crop's grid. With half, weights and arithmetic become float16; the tables are
    computed in float32 first, because positions times frequencies have too few digits in float16.
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
    parts = model.embeddings
    patch = parts.patch_embeddings.patch_size
    grid = (crop // patch[0]) * (crop // patch[1])
    with torch.no_grad():
        tokens = torch.zeros(1, grid + 1, model.config.hidden_size)
        table = parts.interpolate_pos_encoding(tokens, crop, crop).clone()
    if half:
        model.half()
        table = table.half()
    parts.position_embeddings = nn.Parameter(table, requires_grad=False)
    parts.interpolate_pos_encoding = lambda *_: parts.position_embeddings


def rotary_tables(config, frames: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosine and sine for each token and each number of a head, float32 [tokens, head size] each.

    A head's numbers are three parts of equal, even length for depth, height and width, and what is left over, which is
    not rotated. In a part of d numbers the angle of number i is position / 10000^((i mod d/2) / (d/2)): the published
    network repeats the frequencies one after the other, while pairs that are rotated lie side by side.
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
    """Turns each pair of neighbours of x [..., tokens, head size] by the tables' angles; 0 changes nothing."""
    even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
    return x * cos + torch.stack((-odd, even), -1).flatten(-2) * sin
