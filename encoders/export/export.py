"""Exports a checkpoint to ONNX and verifies it against torch: the program behind `srpo encoder export`.

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

# The largest accepted relative difference between the embeddings of the file and of torch: |a - b| / |b|, Euclidean.
TOLERANCE = 1e-4
# In float16, each of some hundred roundings changes a value by up to 5e-4, and most of them cancel in the mean.
HALF_TOLERANCE = 2e-2
FORMAT = 1  # of the model card
BATCHES = ((0,), (1, 2), (0, 1, 2))  # the clips of each call: batches of 1, 2 and 3


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
    """Exports the checkpoint a.model to the file a.out and returns the result for srpo: file, bytes, card, verified.

    The file gets its name only after it is verified. Raises Refused.
    """
    out = output_path(a.out)
    reports.phase("loading", note=a.model)
    c = checkpoint.find(a.family, a.model, a.revision)

    import torch

    import network

    if a.threads:
        torch.set_num_threads(a.threads)
    frames = network.frames_of(c, a.frames)
    began = time.monotonic()
    check_memory(c.parameters())
    wrapper = network.load(c)
    card = describe(c, wrapper, frames)
    count = sum(p.numel() for p in wrapper.parameters())
    reports.message(
        f"{c.source}: {a.family}, {count / 1e6:.1f} M parameters, {card['input']['height']} px, {frames} frames,"
        f" {card['dimension']} numbers per vector; loaded in {time.monotonic() - began:.1f} s"
    )

    inputs = example_inputs(a, card)
    reference = embed_torch(wrapper, inputs, reports)

    reports.phase("exporting", note="float16" if a.half else "float32")
    network.prepare(wrapper, frames, card["input"]["height"], a.half)
    import graph

    model = graph.export(wrapper, network.example(wrapper, frames, card["input"]["height"], 2))
    del wrapper
    card["sha256"] = c.sha256()
    model.metadata_props["srpo.encoder"] = json.dumps(card)
    out.parent.mkdir(parents=True, exist_ok=True)
    remove_unfinished(out)
    # Each checkpoint has its own name for the weight file, so an existing model stays complete until it is replaced.
    weight_file = f"{out.stem}-{card['sha256'][:12]}-{frames}{'-half' if a.half else ''}.data"
    work = Path(tempfile.mkdtemp(prefix=f".{out.stem}-tmp-{os.getpid()}-", dir=out.parent))
    try:
        reports.phase("writing", note=f"{graph.weight_bytes(model) / 1e6:.1f} MB")
        external = graph.save(model, work / out.name, weight_file)
        del model
        gc.collect()
        verified = verify(work / out.name, inputs, reference, a, reports)
        append_metadata(work / out.name, "srpo.verified", json.dumps(verified))
        if external:
            os.replace(work / weight_file, out.parent / weight_file)
        os.replace(work / out.name, out)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    remove_weights(out, keep=weight_file if external else "")
    size = out.stat().st_size + ((out.parent / weight_file).stat().st_size if external else 0)
    return {"file": str(out), "bytes": size, "card": card, "verified": verified}


def output_path(text: str) -> Path:
    """The absolute path of --out. Raises Refused (invalid) if it is not the path of an .onnx file."""
    out = Path(os.path.abspath(os.path.expanduser(text)))
    if out.suffix != ".onnx":
        raise Refused("invalid", f"{out.name} does not end with .onnx", "set --out to FILE.onnx")
    if out.is_dir():
        raise Refused("invalid", f"{out} is a folder", "set --out to FOLDER/FILE.onnx")
    return out


def remove_unfinished(out: Path) -> None:
    """Removes the temporary folders of exports to out whose process has ended."""
    for folder in out.parent.glob(f".{out.stem}-tmp-*"):
        if not alive(folder.name.split("-")[-2]):
            shutil.rmtree(folder, ignore_errors=True)


def remove_weights(out: Path, keep: str) -> None:
    """Removes the weight files of earlier exports to out, except the one named keep."""
    for path in out.parent.iterdir():
        if re.fullmatch(re.escape(out.stem) + r"-[0-9a-f]{12}-\d+(-half)?\.data", path.name) and path.name != keep:
            path.unlink()


# Estimated peak memory as a multiple of the float32 weights: torch's weights, most of them again in the graph, and
# intermediate results.
MEMORY = 2.3


def check_memory(parameters: int) -> None:
    """Raises Refused (exhausted) if there is not enough memory to export so many parameters. Linux only."""
    try:
        text = Path("/proc/meminfo").read_text()
    except OSError:
        return
    free = int(re.search(r"MemAvailable:\s+(\d+) kB", text).group(1)) * 1024
    need = MEMORY * 4 * parameters
    if need > free:
        raise Refused(
            "exhausted",
            f"the network's {parameters / 1e6:.0f} M parameters need about {need / 1e9:.1f} GB of memory to export,"
            f" and {free / 1e9:.1f} GB are free",
            "close other programs, or export on a machine with more memory and copy the files: they run with less",
        )


def alive(pid: str) -> bool:
    """Whether a process with this id exists."""
    try:
        os.kill(int(pid), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:
        pass
    return True


def describe(c: checkpoint.Checkpoint, wrapper, frames: int) -> dict:
    """The model card, from which the encoders in Go learn how to run the file. The caller fills in sha256."""
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


# Episodes of srpo's tabletop: by the expert, by the expert with noise, and with random actions.
EPISODES = Path(__file__).resolve().parent / "episodes"


def example_inputs(a, card: dict) -> list:
    """Three preprocessed inputs, float32 [T, 3, H, W] or, for single frames, [3, H, W].

    They come from the clips in a.clips, repeated if there are fewer than three, or from tabletop episodes.
    """
    import clips

    raw = clips.read(Path(a.clips) if a.clips else EPISODES, 3)
    raw = [raw[i % len(raw)] for i in range(3)]
    if card["frames"] > 1:
        return [clips.preprocess(clips.sample(clip, card["frames"]), card) for clip in raw]
    return [clips.preprocess(clip[len(clip) // 2 :][:1], card)[0] for clip in raw]


def embed_torch(wrapper, inputs: list, reports: Reports) -> list[dict]:
    """Embeds each input with torch, on a GPU if there is one: output name to float32 [dimension]."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    wrapper.to(device)
    out, began = [], time.monotonic()
    with torch.inference_mode():
        for i, x in enumerate(inputs):
            reports.phase("reference", i, len(inputs), rate(began, i, len(inputs)))
            y = wrapper(x[None].to(device))
            y = y if isinstance(y, tuple) else (y,)
            out.append({name: v[0].cpu().numpy() for name, v in zip(wrapper.outputs, y)})
    wrapper.to("cpu")
    return out


def rate(began: float, done: int, total: int) -> str:
    """The seconds per clip and the time left, for a report. Empty before the first clip."""
    if not done:
        return ""
    each = (time.monotonic() - began) / done
    return f"{each:.1f} s per clip, {each * (total - done):.0f} s left"


def verify(path: Path, inputs: list, reference: list[dict], a, reports: Reports) -> dict:
    """Runs the file in ONNX Runtime, in batches of 1, 2 and 3, and compares the outputs with reference.

    Returns the value of srpo.verified in the metadata. Raises Refused (corrupt) if a difference exceeds the tolerance.
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
    total, done, began = sum(map(len, BATCHES)), 0, time.monotonic()
    worst, where = 0.0, ""
    for batch in BATCHES:
        reports.phase("verifying", done, total, rate(began, done, total))
        got = session.run(None, {name: np.stack([inputs[i].numpy() for i in batch])})
        done += len(batch)
        for output, rows in zip(names, got):
            for i, row in zip(batch, rows):
                want = reference[i][output]
                difference = float(np.linalg.norm(row.astype(np.float64) - want) / np.linalg.norm(want))
                if not difference <= worst:  # also true for NaN
                    worst, where = difference, f"output {output}, clip {i} in a batch of {len(batch)}"
    reports.phase("verifying", done, total, rate(began, done, total))
    if not worst <= tolerance:
        hint = (
            "export in float32: values of the network are too large for float16"
            if a.half
            else "report it with the checkpoint's config.json; the file was not kept"
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
        "clips": len(inputs),
        "batches": [len(b) for b in BATCHES],
        "pictures": Path(a.clips).resolve().name if a.clips else "tabletop episodes",
        "half": a.half,
        "onnxruntime": onnxruntime.__version__,
        "seconds_a_clip": (time.monotonic() - began) / total,
    }


def append_metadata(path: Path, key: str, value: str) -> None:
    """Adds an entry to the metadata of a model file without reading it.

    Two concatenated protobuf messages are one message with the entries of both.
    """
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
