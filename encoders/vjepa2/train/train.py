"""Trains a small V-JEPA 2 on clips: the program behind `srpo encoder train`.

    python train.py --clips FOLDER [--clips FOLDER ...] --out FOLDER [--steps N] [--hidden D --layers N ...]

--out gets checkpoint/ in the format of transformers, which `srpo encoder export vjepa2` takes, state.pt to go on from,
and log.jsonl with a line each --log steps. Stopped at any time, the same command goes on from the last state.
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
HELD_OUT = 20  # each 20th clip, for the loss on clips that are not learned from

# What a checkpoint is: these must be the same when a training goes on.
SHAPE = ("crop", "patch", "frames", "tubelet", "hidden", "layers", "heads", "predictor", "predictor_layers")
RECIPE = ("steps", "batch", "rate", "warmup", "decay", "momentum", "seed")


def arguments(argv):
    p = argparse.ArgumentParser(prog="train.py")
    p.add_argument("--clips", action="append", required=True)
    p.add_argument("--out", required=True)
    whole = {
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
    for name, default in whole.items():
        p.add_argument("--" + name.replace("_", "-"), type=int, default=default)
    for name, default in {"rate": 6e-4, "decay": 0.04, "momentum": 0.992}.items():
        p.add_argument("--" + name, type=float, default=default)
    return p.parse_args(argv)


def check(a) -> None:
    """Raises Refused (invalid) for sizes that do not fit each other."""
    for name in (*SHAPE, "batch", "log"):
        if getattr(a, name) < 1:
            raise Refused("invalid", f"--{name.replace('_', '-')} {getattr(a, name)}", "1 or more")
    for whole, part in (("crop", "patch"), ("frames", "tubelet"), ("hidden", "heads"), ("predictor", "heads")):
        if getattr(a, whole) % getattr(a, part):
            raise Refused(
                "invalid",
                f"--{whole} {getattr(a, whole)} is no multiple of --{part} {getattr(a, part)}",
                f"--{whole} {getattr(a, part) * max(1, getattr(a, whole) // getattr(a, part))}",
            )
    if a.steps < 0:
        raise Refused("invalid", f"--steps {a.steps}", "1 or more; 0 leaves the weights as they are drawn")
    if a.crop < 2 * a.patch:
        raise Refused("invalid", f"--crop {a.crop} is one token of --patch {a.patch}", f"--crop {8 * a.patch}")
    for name in ("hidden", "predictor"):
        if getattr(a, name) // a.heads < 6:
            raise Refused(
                "invalid",
                f"--{name} {getattr(a, name)} gives heads of fewer than 6 numbers",
                "fewer --heads: rotary positions take three pairs",
            )
    if not (a.rate > 0 and 0 <= a.momentum < 1 and a.decay >= 0):
        raise Refused("invalid", "--rate must be above 0, --momentum from 0 to 1, --decay 0 or more", "leave them out")


def preprocess(a) -> dict:
    """What is done to frames, in the form of the model card; the exported encoder does the same."""
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
    """Episodes in memory as uint8 [T, 3, crop, crop], those to learn from and those held out."""

    def __init__(self, a, reports: Reports):
        self.frames, self.how = a.frames, preprocess(a)
        self.learn, self.held = [], []
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
            clip = clips.cropped(clips.load(path), self.how)
            (self.held if i % HELD_OUT == HELD_OUT - 1 else self.learn).append(clip)
        if not self.held:
            self.held = self.learn[-1:]

    def batch(self, rng: np.random.Generator, size: int, held: bool = False) -> torch.Tensor:
        """Clips [size, frames, 3, crop, crop], normalised: of each drawn episode a stretch of random length and place,
        from as many frames as the network takes to the whole episode, evenly, as an encoder samples episodes."""
        source = self.held if held else self.learn
        out = []
        for i in rng.integers(0, len(source), size):
            episode = source[i]
            length = int(rng.integers(min(self.frames, len(episode)), len(episode) + 1))
            start = int(rng.integers(0, len(episode) - length + 1))
            out.append(episode[start + clips.places(length, self.frames)])
        return clips.normalise(torch.stack(out), self.how)


def network(a):
    """A V-JEPA 2 of transformers with fresh weights."""
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
    """All that a training is between two steps."""

    def __init__(self, a, device: str):
        torch.manual_seed(a.seed)
        self.a, self.device = a, device
        self.model = network(a)
        self.jepa = jepa.Jepa(self.model).to(device).train()
        self.jepa.target.eval()
        learned = [*self.jepa.encoder.parameters(), *self.jepa.predictor.parameters()]
        self.optimiser = torch.optim.AdamW(
            [
                {"params": [p for p in learned if p.ndim > 1], "weight_decay": a.decay},
                {"params": [p for p in learned if p.ndim <= 1], "weight_decay": 0.0},
            ],
            lr=a.rate,
            betas=(0.9, 0.999),
        )
        self.step, self.seconds = 0, 0.0

    def rate(self) -> float:
        """Linear warm-up, then a cosine to a hundredth."""
        a = self.a
        if self.step < a.warmup:
            return a.rate * (self.step + 1) / a.warmup
        return jepa.cosine(a.rate, a.rate / 100, (self.step - a.warmup) / max(1, a.steps - a.warmup))

    def momentum(self) -> float:
        """From --momentum to a hundredth of its distance from 1, as a cosine."""
        return 1 - jepa.cosine(1 - self.a.momentum, (1 - self.a.momentum) / 100, self.step / self.a.steps)

    def rng(self, what: int) -> np.random.Generator:
        """Random numbers that depend on seed and step only, so that a training that goes on is the same."""
        return np.random.default_rng((self.a.seed, what, self.step))

    def drawn(self, rng: np.random.Generator, batch: int):
        j = self.jepa
        return [tuple(m.to(self.device) for m in jepa.masks(rng, b, batch, j.depth, j.side)) for b in jepa.MASKS]

    def advance(self, data: Clips) -> tuple[float, float]:
        """One step; returns the loss and the length of the gradient."""
        rng = self.rng(0)
        videos = data.batch(rng, self.a.batch).to(self.device)
        for group in self.optimiser.param_groups:
            group["lr"] = self.rate()
        self.optimiser.zero_grad(set_to_none=True)
        loss = self.jepa.loss(videos, self.drawn(rng, self.a.batch))
        loss.backward()
        params = [p for g in self.optimiser.param_groups for p in g["params"]]
        length = float(torch.nn.utils.clip_grad_norm_(params, 1.0))
        value = float(loss.detach())
        if not np.isfinite(value) or not np.isfinite(length):
            raise Refused(
                "corrupt",
                f"the loss is {value} in step {self.step}, its gradient {length}",
                "a lower --rate, or a longer --warmup; the last saved state is as it was",
            )
        self.optimiser.step()
        self.jepa.follow(self.momentum())
        self.step += 1
        return value, length

    @torch.no_grad()
    def examine(self, data: Clips) -> dict:
        """The loss on clips that are held out, and whether embeddings have collapsed; the same clips each time."""
        rng = np.random.default_rng((self.a.seed, 1))
        videos = data.batch(rng, 64, held=True).to(self.device)
        loss = float(self.jepa.loss(videos[:32], self.drawn(rng, 32)))
        return {"held_out": loss, **jepa.health(self.jepa.embed(videos).cpu())}

    def save(self, out: Path) -> None:
        """Writes state.pt, whole or not at all."""
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
        """Goes on from state.pt where there is one. Raises Refused: mismatch (another training), corrupt."""
        path = out / "state.pt"
        if not path.exists():
            return False
        try:
            state = torch.load(path, map_location=self.device, weights_only=True)
            before = state["arguments"]
        except Exception as e:  # pickle and zipfile raise what they like
            raise Refused(
                "corrupt", f"the state cannot be read: {type(e).__name__}: {e}", "give another --out", str(path)
            ) from e
        differ = [k for k in before if before[k] != getattr(self.a, k)]
        if differ:
            words = ", ".join(f"--{k.replace('_', '-')} was {before[k]}" for k in differ)
            raise Refused("mismatch", f"the folder holds another training: {words}", "give another --out", str(out))
        self.jepa.load_state_dict(state["jepa"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step, self.seconds = state["step"], state["seconds"]
        return True

    def publish(self, out: Path) -> Path:
        """Writes checkpoint/ in the format of transformers: the target encoder, which is the one to use."""
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
            made = f"of random weights (seed {self.a.seed}), which nothing has trained"
        (tmp / "README.md").write_text(f"# tiny-world-model\n\nA V-JEPA 2 {made}.\n")
        shutil.rmtree(to, ignore_errors=True)
        os.replace(tmp, to)
        return to


def duration(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 100
        else f"{seconds / 60:.0f} min"
        if seconds < 6000
        else f"{seconds / 3600:.1f} h"
    )


def train(a, reports: Reports) -> dict:
    check(a)
    if a.threads:
        torch.set_num_threads(a.threads)
    out = Path(os.path.abspath(os.path.expanduser(a.out)))
    out.mkdir(parents=True, exist_ok=True)
    t = Training(a, "cuda" if torch.cuda.is_available() else "cpu")
    went_on = t.load(out)
    data = Clips(a, reports)
    count = sum(p.numel() for p in t.jepa.encoder.parameters())
    reports.say(
        f"{len(data.learn)} clips to learn from, {len(data.held)} held out; encoder of {count / 1e6:.2f} M"
        f" parameters, {t.jepa.depth * t.jepa.side**2} tokens a clip; {t.device}"
        + (f"; going on after step {t.step}" if went_on else "")
    )
    asked = []
    signal.signal(signal.SIGTERM, lambda *_: asked.append(True))
    log, last = _log(out / "log.jsonl", t.step)
    saved = began = time.monotonic()
    first, before = t.step, t.seconds
    losses, lengths = [], []
    while t.step < a.steps:
        value, length = t.advance(data)
        losses.append(value)
        lengths.append(length)
        now = time.monotonic()
        t.seconds = before + now - began
        each = (now - began) / (t.step - first)
        if t.step % a.log == 0 or t.step == a.steps:
            last = {
                "step": t.step,
                "loss": float(np.mean(losses)),
                "gradient": float(np.mean(lengths)),
                "rate": t.rate(),
                "momentum": t.momentum(),
                "seconds": t.seconds,
                **t.examine(data),
            }
            log.write(json.dumps(last) + "\n")
            log.flush()
            losses, lengths = [], []
            if last["spread"] < 0.01 or last["rank"] < 1.5:
                reports.say(
                    f"step {t.step}: embeddings of different clips are nearly the same (spread {last['spread']:.4f},"
                    f" effective rank {last['rank']:.1f}): the network may be collapsing"
                )
        note = f"loss {value:.3f}"
        if last:
            note += f" (held out {last['held_out']:.3f}, spread {last['spread']:.2f}, rank {last['rank']:.0f})"
        reports.phase(
            "training", t.step, a.steps, f"{note}, {each:.2f} s a step, {duration(each * (a.steps - t.step))} left"
        )
        if asked or now - saved > SAVE_EVERY:
            t.save(out)
            saved = now
        if asked:
            t.publish(out)
            raise Refused(
                "canceled",
                f"stopped after step {t.step} of {a.steps}, which is saved in {out}",
                "the same command goes on; checkpoint/ in it can be exported as it is",
            )
    if not last:  # --steps 0: the network as it was drawn, the floor that a trained one is to be compared with
        last = {"step": 0, **t.examine(data)}
        last["loss"] = last["held_out"]
    t.save(out)
    return {"checkpoint": str(t.publish(out)), **last, "steps": t.step, "seconds": t.seconds}


def _log(path: Path, step: int):
    """Opens log.jsonl, without lines of steps after the one that a training goes on from; also returns its last."""
    kept, last = [], {}
    if path.exists():
        for line in path.read_text().splitlines():
            try:
                entry = json.loads(line)
                if entry["step"] <= step:
                    kept.append(line)
                    last = entry
            except (ValueError, KeyError):
                pass  # torn by a crash
    path.write_text("".join(line + "\n" for line in kept))
    return open(path, "a", encoding="utf-8"), last


if __name__ == "__main__":
    sys.exit(run(lambda reports: train(arguments(None), reports)))
