"""Checkpoint to ONNX, verified against torch: the program behind `srpo encoder export`.

python export.py vjepa2 --model FOLDER|OWNER/NAME --out FILE.onnx [--half] [--revision R] [--frames N] [--clips DIR]
"""

import argparse
import gc
import json
import os
import re
import shutil
import sys
import tempfile
import time
from pathlib import Path

import checkpoint
from talk import Refused, Reports, run

# The largest relative difference between torch's embeddings and the file's that is accepted: |a - b| / |b|, Euclidean.
TOLERANCE = 1e-4
# In float16 each of some hundred roundings costs up to 5e-4 of a value, most of which cancel in the mean.
HALF_TOLERANCE = 2e-2
FORMAT = 1
SHARDS = ((0,), (1, 2), (0, 1, 2))  # the clips of each call: batches of 1, 2 and 3


def arguments(argv):
    p = argparse.ArgumentParser(prog="export.py")
    p.add_argument("family", choices=sorted(checkpoint.FAMILIES))
    p.add_argument("--model", required=True)
    p.add_argument("--out", required=True)
    p.add_argument("--half", action="store_true")
    p.add_argument("--revision", default="")
    p.add_argument("--frames", type=int)
    p.add_argument("--clips", default="")
    p.add_argument("--threads", type=int, default=0)
    return p.parse_args(argv)


def export(a, reports: Reports) -> dict:
    """Does all of it and returns what came out. The file has its name only when it was verified."""
    out = Path(os.path.abspath(os.path.expanduser(a.out)))
    if out.suffix != ".onnx":
        raise Refused("invalid", f"{out.name} does not end with .onnx", "give --out FILE.onnx")
    if out.is_dir():
        raise Refused("invalid", f"{out} is a folder", "give --out FOLDER/FILE.onnx")
    reports.phase("loading", note=a.model)
    c = checkpoint.find(a.family, a.model, a.revision)

    import torch

    import network

    if a.threads:
        torch.set_num_threads(a.threads)
    frames = network.frames_of(c, a.frames)
    began = time.monotonic()
    enough_memory(c.parameters())
    wrapper = network.load(c)
    card = describe(c, wrapper, frames)
    count = sum(p.numel() for p in wrapper.parameters())
    reports.say(
        f"{c.source}: {a.family}, {count / 1e6:.1f} M parameters, {card['input']['height']} px, {frames} frames,"
        f" {card['dimension']} numbers a vector; loaded in {time.monotonic() - began:.1f} s"
    )

    shown = pictures(a, card)
    reference = embed_torch(wrapper, shown, reports)

    reports.phase("exporting", note="float16" if a.half else "float32")
    network.prepare(wrapper, frames, card["input"]["height"], a.half)
    import graph

    model = graph.export(wrapper, network.example(wrapper, frames, card["input"]["height"], 2))
    card["sha256"] = c.sha256()
    out.parent.mkdir(parents=True, exist_ok=True)
    for left in out.parent.glob(f".{out.stem}-tmp-*"):
        if not alive(left.name.split("-")[-2]):
            shutil.rmtree(left, ignore_errors=True)
    work = Path(tempfile.mkdtemp(prefix=f".{out.stem}-tmp-{os.getpid()}-", dir=out.parent))
    try:
        reports.phase("writing", note=f"{graph.weight_bytes(model) / 1e6:.1f} MB")
        # Other weights have another name, so the file that is there stays whole until the new one takes its place.
        beside = f"{out.stem}-{card['sha256'][:12]}-{frames}{'-half' if a.half else ''}.data"
        model.metadata_props["srpo.encoder"] = json.dumps(card)
        outside = graph.save(model, work / out.name, beside)
        del model, wrapper
        gc.collect()
        verified = verify(work / out.name, shown, reference, a, reports)
        append_metadata(work / out.name, "srpo.verified", json.dumps(verified))
        if outside:
            os.replace(work / beside, out.parent / beside)
        os.replace(work / out.name, out)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    # Weights of exports that this one replaces.
    for old in out.parent.iterdir():
        if re.fullmatch(re.escape(out.stem) + r"-[0-9a-f]{12}-\d+(-half)?\.data", old.name) and not (
            outside and old.name == beside
        ):
            old.unlink()
    size = out.stat().st_size + ((out.parent / beside).stat().st_size if outside else 0)
    return {"file": str(out), "bytes": size, "card": card, "verified": verified}


# Peak memory over the float32 weights, estimated: torch's, the graph's copy of most of them, and room to compute.
MEMORY = 2.3


def enough_memory(parameters: int) -> None:
    """Raises Refused (exhausted) where the network cannot be exported, before the system ends some program."""
    try:
        text = Path("/proc/meminfo").read_text()
    except OSError:
        return  # not Linux
    have = int(re.search(r"MemAvailable:\s+(\d+) kB", text).group(1)) * 1024
    need = MEMORY * 4 * parameters
    if need > have:
        raise Refused(
            "exhausted",
            f"the network's {parameters / 1e6:.0f} M parameters need about {need / 1e9:.1f} GB of memory to export,"
            f" and {have / 1e9:.1f} GB are free",
            "close other programs, or export on a larger machine and bring the files: they run with less",
        )


def alive(pid: str) -> bool:
    """Whether a process with this id may still be there."""
    try:
        os.kill(int(pid), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:
        pass
    return True


def describe(c: checkpoint.Checkpoint, wrapper, frames: int) -> dict:
    """The model card: what the encoders in Go must know to run the file (sha256 is filled in later)."""
    import torch
    import transformers

    outputs = {name: name for name in wrapper.outputs}
    card = {
        "format": FORMAT,
        "family": c.family,
        "source": c.source,
        "revision": c.revision,
        "sha256": "",
        "exporter": f"srpo {os.environ.get('SRPO_VERSION', 'unknown')}, torch {torch.__version__},"
        f" transformers {transformers.__version__}",
        "dimension": wrapper.model.config.hidden_size,
        "frames": frames,
        "input": {
            "name": wrapper.inputs,
            "layout": "BTCHW" if c.family == "vjepa2" else "BCHW",
            "height": c.preprocess["crop"],
            "width": c.preprocess["crop"],
            "dtype": "float32",
        },
        "outputs": outputs,
        "default_output": next(iter(outputs)),
        "preprocess": c.preprocess,
    }
    if c.licence:
        card["licence"] = c.licence
    return card


# Rollouts of srpo's tabletop: the expert, the expert with noise, random actions.
EPISODES = Path(__file__).resolve().parent / "episodes"


def pictures(a, card: dict) -> list:
    """Three preprocessed inputs: of the user's clips where given (repeated when fewer), else of tabletop episodes."""
    import clips

    raw = clips.read(Path(a.clips) if a.clips else EPISODES, 3)
    raw = [raw[i % len(raw)] for i in range(3)]
    if card["frames"] > 1:
        return [clips.preprocess(clips.sample(clip, card["frames"]), card) for clip in raw]
    return [clips.preprocess(clip[len(clip) // 2 :][:1], card)[0] for clip in raw]


def embed_torch(wrapper, shown: list, reports: Reports) -> list[dict]:
    """What torch makes of each input: output name to float32 [dimension]. A GPU is used where there is one."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    wrapper.to(device)
    out, began = [], time.monotonic()
    with torch.inference_mode():
        for i, x in enumerate(shown):
            reports.phase("reference", i, len(shown), rate(began, i, len(shown)))
            y = wrapper(x[None].to(device))
            y = y if isinstance(y, tuple) else (y,)
            out.append({name: v[0].cpu().numpy() for name, v in zip(wrapper.outputs, y)})
    wrapper.to("cpu")
    return out


def rate(began: float, done: int, total: int) -> str:
    """Seconds a clip and the time left, in words; empty before the first."""
    if not done:
        return ""
    each = (time.monotonic() - began) / done
    return f"{each:.1f} s a clip, {each * (total - done):.0f} s left"


def verify(path: Path, shown: list, reference: list[dict], a, reports: Reports) -> dict:
    """Runs the file in ONNX Runtime with batches of 1, 2 and 3 and compares with torch.

    Raises Refused (corrupt) with the numbers when any difference is above the tolerance.
    """
    import numpy as np
    import onnxruntime

    tolerance = HALF_TOLERANCE if a.half else TOLERANCE
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = a.threads
    options.log_severity_level = 3
    reports.phase("verifying", note="opening the file")
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    names = [o.name for o in session.get_outputs()]
    total, done, began = sum(map(len, SHARDS)), 0, time.monotonic()
    worst, where = 0.0, ""
    for shard in SHARDS:
        reports.phase("verifying", done, total, rate(began, done, total))
        got = session.run(None, {name: np.stack([shown[i].numpy() for i in shard])})
        done += len(shard)
        for output, rows in zip(names, got):
            for i, row in zip(shard, rows):
                want = reference[i][output]
                difference = float(np.linalg.norm(row.astype(np.float64) - want) / np.linalg.norm(want))
                if not difference <= worst:  # a NaN is worst
                    worst, where = difference, f"output {output}, clip {i} in a batch of {len(shard)}"
    reports.phase("verifying", done, total, rate(began, done, total))
    if not worst <= tolerance:
        hint = (
            "export it in float32: its values are too large for float16"
            if a.half
            else "the file was not kept; report it with the checkpoint's config.json"
        )
        raise Refused(
            "corrupt",
            f"the exported network differs from torch by {worst:.2e} of a vector's length ({where}),"
            f" more than {tolerance:.0e}",
            hint,
        )
    return {
        "largest_relative_difference": worst,
        "tolerance": tolerance,
        "clips": len(shown),
        "batches": [len(s) for s in SHARDS],
        "pictures": Path(a.clips).resolve().name if a.clips else "tabletop episodes",
        "half": a.half,
        "onnxruntime": onnxruntime.__version__,
        "seconds_a_clip": (time.monotonic() - began) / total,
    }


def append_metadata(path: Path, key: str, value: str) -> None:
    """Adds an entry to the model's metadata without reading gigabytes again: two protobuf messages, one after the other
    in a file, are one with the entries of both."""
    import onnx

    addition = onnx.ModelProto()
    addition.metadata_props.add(key=key, value=value)
    with open(path, "ab") as f:
        f.write(addition.SerializeToString())
        f.flush()
        os.fsync(f.fileno())


def main(argv=None) -> int:
    a = arguments(argv)
    return run(lambda reports: export(a, reports))


if __name__ == "__main__":
    sys.exit(main())
