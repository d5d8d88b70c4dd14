"""Trains a small V-JEPA 2 on clips: the program behind `srpo encoder train`.

    python train.py --clips FOLDER [--clips FOLDER ...] --out FOLDER [--steps N] [--hidden D --layers N ...]

It writes to --out: checkpoint/ in the format of transformers, for `srpo encoder export vjepa2`; state.pt, from which
the training resumes; and log.jsonl with a line every --log steps. After an interruption, the same command resumes
from the last saved state.
"""

import argparse
import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path

import numpy as np
import torch

import clips
import jepa
from talk import Refused, Reports, run

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
SAVE_EVERY = 120.0  # seconds
HELD_OUT = 20  # every 20th clip is held out from training

# Arguments that must be the same when a training resumes: those of the network, and those of the training.
SHAPE = ("crop", "patch", "frames", "tubelet", "hidden", "layers", "heads", "predictor", "predictor_layers")
RECIPE = ("steps", "batch", "rate", "warmup", "decay", "momentum", "seed")


def arguments(argv):
    p = argparse.ArgumentParser(prog="train.py")
    p.add_argument("--clips", action="append", required=True)
    p.add_argument("--out", required=True)
    integers = {
        "crop": 64,
        "patch": 8,
        "frames": 16,
        "tubelet": 2,
        "hidden": 192,
        "layers": 6,
        "heads": 3,
        "predictor": 96,
        "predictor_layers": 4,
        "steps": 5000,
        "batch": 32,
        "warmup": 250,
        "seed": 0,
        "log": 20,
        "threads": 0,
    }
    for name, default in integers.items():
        p.add_argument("--" + name.replace("_", "-"), type=int, default=default)
    for name, default in {"rate": 6e-4, "decay": 0.04, "momentum": 0.992}.items():
        p.add_argument("--" + name, type=float, default=default)
    return p.parse_args(argv)


def check(a) -> None:
    """Raises Refused (invalid) for arguments that are out of range or do not fit each other."""
    for name in (*SHAPE, "batch", "log"):
        if getattr(a, name) < 1:
            raise Refused("invalid", f"--{name.replace('_', '-')} {getattr(a, name)}", "set it to 1 or more")
    for whole, part in (("crop", "patch"), ("frames", "tubelet"), ("hidden", "heads"), ("predictor", "heads")):
        if getattr(a, whole) % getattr(a, part):
            raise Refused(
                "invalid",
                f"--{whole} {getattr(a, whole)} is not a multiple of --{part} {getattr(a, part)}",
                f"set --{whole} {getattr(a, part) * max(1, getattr(a, whole) // getattr(a, part))}",
            )
    if a.steps < 0:
        raise Refused("invalid", f"--steps {a.steps}", "set it to 1 or more, or to 0 to keep the initial weights")
    if a.crop < 2 * a.patch:
        raise Refused("invalid", f"--crop {a.crop} is one token of --patch {a.patch}", f"set --crop {8 * a.patch}")
    for name in ("hidden", "predictor"):
        if getattr(a, name) // a.heads < 6:
            raise Refused(
                "invalid",
                f"--{name} {getattr(a, name)} gives heads with fewer than 6 dimensions",
                "set fewer --heads: rotary positions need three pairs of dimensions per head",
            )
    if not (a.rate > 0 and 0 <= a.momentum < 1 and a.decay >= 0):
        raise Refused(
            "invalid", "--rate must be above 0, --momentum from 0 to 1, --decay 0 or more", "use the defaults"
        )


def preprocess(a) -> dict:
    """The preprocessing of frames, as in the model card. It is the same in the exported encoder."""
    return {
        "resize": int(a.crop * 256 / 224),
        "resize_mode": "short_side",
        "interpolation": "bilinear",
        "antialias": True,
        "crop": a.crop,
        "rescale": 1 / 255,
        "mean": MEAN,
        "std": STD,
    }


class Clips:
    """Training and held-out episodes in memory, uint8 [T, 3, crop, crop] each.

    Raises Refused: not found (no folder or no clips), and the errors of clips.load.
    """

    def __init__(self, a, reports: Reports):
        self.frames, self.preprocess = a.frames, preprocess(a)
        self.training, self.held_out = [], []
        paths = []
        for folder in map(Path, a.clips):
            if not folder.is_dir():
                raise Refused("not found", f"there is no folder {folder}", "srpo record --out FOLDER makes clips")
            paths += sorted([*folder.rglob("*.npz"), *folder.rglob("*.npy")])
        if not paths:
            raise Refused("not found", f"{', '.join(a.clips)}: no clips", "srpo record --out FOLDER makes clips")
        began = time.monotonic()
        for i, path in enumerate(paths):
            reports.phase(
                "reading", i, len(paths), f"{i / max(1e-9, time.monotonic() - began):.0f} clips/s" if i else ""
            )
            clip = clips.cropped(clips.load(path), self.preprocess)
            (self.held_out if i % HELD_OUT == HELD_OUT - 1 else self.training).append(clip)
        if not self.held_out:
            self.held_out = self.training[-1:]

    def batch(self, rng: np.random.Generator, size: int, held_out: bool = False) -> torch.Tensor:
        """Draws normalised clips, float32 [size, frames, 3, crop, crop].

        Each is a random part of a random episode, at least as long as the network's number of frames if possible. Its
        frames are sampled evenly, as encoders sample whole episodes.
        """
        source = self.held_out if held_out else self.training
        out = []
        for i in rng.integers(0, len(source), size):
            episode = source[i]
            length = int(rng.integers(min(self.frames, len(episode)), len(episode) + 1))
            start = int(rng.integers(0, len(episode) - length + 1))
            out.append(episode[start + clips.indices(length, self.frames)])
        return clips.normalise(torch.stack(out), self.preprocess)


def network(a):
    """A V-JEPA 2 of transformers with random weights."""
    import transformers

    transformers.logging.set_verbosity_error()
    config = transformers.VJEPA2Config(
        crop_size=a.crop,
        patch_size=a.patch,
        frames_per_clip=a.frames,
        tubelet_size=a.tubelet,
        hidden_size=a.hidden,
        num_hidden_layers=a.layers,
        num_attention_heads=a.heads,
        mlp_ratio=4,
        pred_hidden_size=a.predictor,
        pred_num_hidden_layers=a.predictor_layers,
        pred_num_attention_heads=a.heads,
        pred_num_mask_tokens=2,
    )
    return transformers.VJEPA2Model(config)


class Training:
    """The state of a training between two steps."""

    def __init__(self, a, device: str):
        torch.manual_seed(a.seed)
        self.a, self.device = a, device
        self.model = network(a)
        self.jepa = jepa.Jepa(self.model).to(device).train()
        self.jepa.target.eval()
        trained = [*self.jepa.encoder.parameters(), *self.jepa.predictor.parameters()]
        self.optimiser = torch.optim.AdamW(
            [
                {"params": [p for p in trained if p.ndim > 1], "weight_decay": a.decay},
                {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
            ],
            lr=a.rate,
            betas=(0.9, 0.999),
        )
        self.step, self.seconds = 0, 0.0

    def rate(self) -> float:
        """The learning rate: a linear warm-up, then a cosine to a hundredth of --rate."""
        a = self.a
        if self.step < a.warmup:
            return a.rate * (self.step + 1) / a.warmup
        return jepa.cosine(a.rate, a.rate / 100, (self.step - a.warmup) / max(1, a.steps - a.warmup))

    def momentum(self) -> float:
        """The momentum of the target: 1 - momentum follows a cosine from 1 - --momentum to a hundredth of it."""
        return 1 - jepa.cosine(1 - self.a.momentum, (1 - self.a.momentum) / 100, self.step / self.a.steps)

    def rng(self) -> np.random.Generator:
        """Random numbers that depend only on seed and step, so that a resumed training is the same."""
        return np.random.default_rng((self.a.seed, 0, self.step))

    def draw_masks(self, rng: np.random.Generator, batch: int):
        """The visible and hidden tokens of a batch, one pair of jepa.masks per entry of jepa.MASKS."""
        j = self.jepa
        return [tuple(m.to(self.device) for m in jepa.masks(rng, b, batch, j.depth, j.side)) for b in jepa.MASKS]

    def advance(self, data: Clips) -> tuple[float, float]:
        """Makes one step. Returns the loss and the norm of the gradient before clipping.

        Raises Refused (corrupt) if one of them is not finite.
        """
        rng = self.rng()
        videos = data.batch(rng, self.a.batch).to(self.device)
        for group in self.optimiser.param_groups:
            group["lr"] = self.rate()
        self.optimiser.zero_grad(set_to_none=True)
        loss = self.jepa.loss(videos, self.draw_masks(rng, self.a.batch))
        loss.backward()
        params = [p for g in self.optimiser.param_groups for p in g["params"]]
        norm = float(torch.nn.utils.clip_grad_norm_(params, 1.0))
        value = float(loss.detach())
        if not np.isfinite(value) or not np.isfinite(norm):
            raise Refused(
                "corrupt",
                f"the loss is {value} in step {self.step}, and the norm of its gradient {norm}",
                "set a lower --rate or a longer --warmup; the last saved state is unchanged",
            )
        self.optimiser.step()
        self.jepa.follow(self.momentum())
        self.step += 1
        return value, norm

    @torch.no_grad()
    def evaluate(self, data: Clips) -> dict:
        """The loss and jepa.health of held-out clips, which are the same each time."""
        rng = np.random.default_rng((self.a.seed, 1))
        videos = data.batch(rng, 64, held_out=True).to(self.device)
        loss = float(self.jepa.loss(videos[:32], self.draw_masks(rng, 32)))
        return {"held_out": loss, **jepa.health(self.jepa.embed(videos).cpu())}

    def save(self, out: Path) -> None:
        """Writes state.pt atomically."""
        tmp = out / ".state.pt"
        args = {k: getattr(self.a, k) for k in (*SHAPE, *RECIPE)}
        torch.save(
            {
                "arguments": args,
                "step": self.step,
                "seconds": self.seconds,
                "jepa": self.jepa.state_dict(),
                "optimiser": self.optimiser.state_dict(),
            },
            tmp,
        )
        os.replace(tmp, out / "state.pt")

    def load(self, out: Path) -> bool:
        """Resumes from state.pt if it exists. Returns whether it does.

        Raises Refused: mismatch (another training), corrupt.
        """
        path = out / "state.pt"
        if not path.exists():
            return False
        try:
            state = torch.load(path, map_location=self.device, weights_only=True)
            saved = state["arguments"]
        except Exception as e:  # pickle and zipfile raise many kinds of errors
            raise Refused(
                "corrupt", f"the state cannot be read: {type(e).__name__}: {e}", "set another --out", str(path)
            ) from e
        differences = [f"--{k.replace('_', '-')} was {v}" for k, v in saved.items() if v != getattr(self.a, k)]
        if differences:
            message = f"the folder has another training: {', '.join(differences)}"
            raise Refused("mismatch", message, "set another --out", str(out))
        self.jepa.load_state_dict(state["jepa"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step, self.seconds = state["step"], state["seconds"]
        return True

    def publish(self, out: Path) -> Path:
        """Writes the target encoder to checkpoint/, in the format of transformers. Returns the folder."""
        tmp, to = out / ".checkpoint", out / "checkpoint"
        shutil.rmtree(tmp, ignore_errors=True)
        final = network(self.a)
        final.encoder.load_state_dict(self.jepa.target.state_dict())
        final.predictor.load_state_dict(self.jepa.predictor.state_dict())
        final.save_pretrained(tmp)
        side = {"height": self.a.crop, "width": self.a.crop}
        (tmp / "video_preprocessor_config.json").write_text(
            json.dumps(
                {
                    "video_processor_type": "VJEPA2VideoProcessor",
                    "crop_size": side,
                    "do_center_crop": True,
                    "do_normalize": True,
                    "do_rescale": True,
                    "do_resize": True,
                    "image_mean": MEAN,
                    "image_std": STD,
                    "resample": 2,
                    "rescale_factor": 1 / 255,
                    "size": {"shortest_edge": int(self.a.crop * 256 / 224)},
                },
                indent=2,
            )
            + "\n"
        )
        made = f"trained by `srpo encoder train` for {self.step} steps of {self.a.batch} clips"
        if self.step == 0:
            made = f"with random weights (seed {self.a.seed}), not trained"
        (tmp / "README.md").write_text(f"# tiny-world-model\n\nA V-JEPA 2 {made}.\n")
        shutil.rmtree(to, ignore_errors=True)
        os.replace(tmp, to)
        return to


def train(a, reports: Reports) -> dict:
    """Trains, or resumes a training, and returns the result for srpo: checkpoint, steps, seconds and the last log
    entry.

    Raises Refused, also with the kind canceled after SIGTERM.
    """
    check(a)
    if a.threads:
        torch.set_num_threads(a.threads)
    out = Path(os.path.abspath(os.path.expanduser(a.out)))
    out.mkdir(parents=True, exist_ok=True)
    t = Training(a, "cuda" if torch.cuda.is_available() else "cpu")
    resumed = t.load(out)
    data = Clips(a, reports)
    count = sum(p.numel() for p in t.jepa.encoder.parameters())
    reports.message(
        f"{len(data.training)} clips for training, {len(data.held_out)} held out; encoder of {count / 1e6:.2f} M"
        f" parameters, {t.jepa.depth * t.jepa.side**2} tokens per clip; {t.device}"
        + (f"; resuming after step {t.step}" if resumed else "")
    )
    stop = []
    signal.signal(signal.SIGTERM, lambda *_: stop.append(True))
    log, last = open_log(out / "log.jsonl", t.step)
    saved = began = time.monotonic()
    first_step, seconds_before = t.step, t.seconds
    losses, norms = [], []
    while t.step < a.steps:
        loss, norm = t.advance(data)
        losses.append(loss)
        norms.append(norm)
        now = time.monotonic()
        t.seconds = seconds_before + now - began
        if t.step % a.log == 0 or t.step == a.steps:
            last = log_entry(t, losses, norms, data)
            log.write(json.dumps(last) + "\n")
            log.flush()
            losses, norms = [], []
            warn_of_collapse(last, reports)
        report_progress(t, loss, last, (now - began) / (t.step - first_step), reports)
        if stop or now - saved > SAVE_EVERY:
            t.save(out)
            saved = now
        if stop:
            t.publish(out)
            raise Refused(
                "canceled",
                f"stopped after step {t.step} of {a.steps}; the state is saved in {out}",
                "run the same command to resume; the checkpoint/ in the folder can be exported",
            )
    if not last:  # --steps 0: the initial network, a baseline for trained ones
        last = {"step": 0, **t.evaluate(data)}
        last["loss"] = last["held_out"]
    t.save(out)
    return {"checkpoint": str(t.publish(out)), **last, "steps": t.step, "seconds": t.seconds}


def open_log(path: Path, step: int):
    """Opens log.jsonl to append, after removing entries of later steps than step. Also returns the last entry."""
    lines, last = [], {}
    if path.exists():
        for line in path.read_text().splitlines():
            try:
                entry = json.loads(line)
                if entry["step"] <= step:
                    lines.append(line)
                    last = entry
            except (ValueError, KeyError):
                pass  # an incomplete line, after a crash
    path.write_text("".join(line + "\n" for line in lines))
    return open(path, "a", encoding="utf-8"), last


def log_entry(t: Training, losses: list[float], norms: list[float], data: Clips) -> dict:
    """An entry of log.jsonl: the means of loss and gradient norm since the last one, schedules, and an evaluation."""
    return {
        "step": t.step,
        "loss": float(np.mean(losses)),
        "gradient": float(np.mean(norms)),
        "rate": t.rate(),
        "momentum": t.momentum(),
        "seconds": t.seconds,
        **t.evaluate(data),
    }


def warn_of_collapse(entry: dict, reports: Reports) -> None:
    """Sends a message if the embeddings of different clips are nearly the same."""
    if entry["spread"] < 0.01 or entry["rank"] < 1.5:
        reports.message(
            f"step {entry['step']}: embeddings of different clips are nearly the same (spread {entry['spread']:.4f},"
            f" effective rank {entry['rank']:.1f}): the network may be collapsing"
        )


def report_progress(t: Training, loss: float, last: dict, each: float, reports: Reports) -> None:
    """Reports the step, the loss, the last log entry and the time left, given the seconds per step."""
    note = f"loss {loss:.3f}"
    if last:
        note += f" (held out {last['held_out']:.3f}, spread {last['spread']:.2f}, rank {last['rank']:.0f})"
    left = duration(each * (t.a.steps - t.step))
    reports.phase("training", t.step, t.a.steps, f"{note}, {each:.2f} s per step, {left} left")


def duration(seconds: float) -> str:
    """A duration in seconds, minutes or hours."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 6000:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


if __name__ == "__main__":
    sys.exit(run(lambda reports: train(arguments(None), reports)))
