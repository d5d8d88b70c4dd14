"""Measures the speed of ONNX Runtime against torch on the same clips, and the memory of one attention layer.

    python speed.py [--part time|memory] [--layers 24] [--frames 16] [--crop 256] [--rounds 3] [--threads 0] > TABLE.md

The network has the width of ViT-L (1024, 16 heads) and random weights. torch and ONNX Runtime run in separate
processes and take turns clip by clip, so that other load affects both in the same way; medians are compared. The
attention layer is the network with one layer, exported by srpo and by torch alone (opset 20, which materialises the
scores).
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from pathlib import Path

import numpy as np


def status(field: str) -> int:
    """The memory of this process in bytes: field is VmRSS (current) or VmHWM (peak) of /proc.

    getrusage would include the peak of the parent process.
    """
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(field))
    return 1024 * int(line.split()[1])


def worker(kind: str, path: str, a) -> None:
    """Embeds a clip for each line on stdin.

    It answers with a line of JSON: the seconds of the run, and by how many bytes the peak memory exceeds the memory
    before the first run.
    """
    clip = np.random.default_rng(0).standard_normal((1, a.frames, 3, a.crop, a.crop), dtype=np.float32)
    if kind == "torch":
        import torch

        import checkpoint
        import network

        if a.threads:
            torch.set_num_threads(a.threads)
        wrapper, x = network.load(checkpoint.find("vjepa2", path)), torch.from_numpy(clip)

        def embed():
            with torch.inference_mode():
                wrapper(x)
    else:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = a.threads
        session = onnxruntime.InferenceSession(path, options)

        def embed():
            session.run(None, {session.get_inputs()[0].name: clip})

    before = status("VmRSS")
    print("ready", flush=True)
    for _ in sys.stdin:
        began = time.perf_counter()
        embed()
        took = time.perf_counter() - began
        print(json.dumps({"seconds": took, "more": status("VmHWM") - before}), flush=True)


class Worker:
    """A worker process, which embeds a clip on demand."""

    def __init__(self, kind: str, path: Path, a):
        options = [f"--{k}={v}" for k, v in vars(a).items() if k not in ("worker", "path", "rounds")]
        command = [sys.executable, __file__, f"--worker={kind}", f"--path={path}", *options]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"}
        )
        while self.process.stdout.readline().strip() != "ready":
            if self.process.poll() is not None:
                raise SystemExit(f"the {kind} worker ended with status {self.process.returncode}")

    def embed(self) -> dict:
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def arguments():
    p = argparse.ArgumentParser()
    for name, default in {"layers": 24, "frames": 16, "crop": 256, "rounds": 3, "threads": 0}.items():
        p.add_argument("--" + name, type=int, default=default)
    p.add_argument("--part", choices=("time", "memory", "both"), default="both")
    p.add_argument("--worker", default="")
    p.add_argument("--path", default="")
    return p.parse_args()


def exported(folder: Path, a, layers: int, frames: int) -> tuple[Path, Path]:
    """Makes a checkpoint of ViT-L's width with random weights, and exports it. Returns both paths."""
    import torch

    import graph
    import network
    import random_checkpoint

    torch.manual_seed(0)
    random_checkpoint.vjepa2(folder / "checkpoint", crop_size=a.crop, frames_per_clip=frames, num_hidden_layers=layers)
    import checkpoint

    wrapper = network.load(checkpoint.find("vjepa2", str(folder / "checkpoint")))
    network.prepare(wrapper, frames, a.crop, False)
    graph.save(graph.export(wrapper, network.example(wrapper, frames, a.crop, 2)), folder / "model.onnx", "model.data")
    return folder / "checkpoint", folder / "model.onnx"


def unfused(folder: Path, a, frames: int) -> Path:
    """Exports the network with torch alone: matrix product, softmax, matrix product. Returns the path."""
    import torch

    import checkpoint
    import network

    wrapper = network.load(checkpoint.find("vjepa2", str(folder / "checkpoint")))
    torch.onnx.export(
        wrapper,
        (network.example(wrapper, frames, a.crop, 2),),
        folder / "unfused.onnx",
        dynamo=True,
        opset_version=20,
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        verbose=False,
    )
    return folder / "unfused.onnx"


def main() -> None:
    a = arguments()
    if a.worker:
        worker(a.worker, a.path, a)
        return
    import onnxruntime
    import torch

    print(
        f"torch {torch.__version__}, ONNX Runtime {onnxruntime.__version__}, {os.cpu_count()} cores, load"
        f" {os.getloadavg()[0]:.1f} at the start, {f'{a.threads} threads' if a.threads else 'one thread per core'}.\n"
    )
    if a.part != "memory":
        durations(a)
    if a.part != "time":
        memory(a)


def durations(a) -> None:
    """Prints the seconds per clip of torch and of the exported file."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = exported(folder, a, a.layers, a.frames)
        workers = {"torch": Worker("torch", paths[0], a), "onnx": Worker("onnx", paths[1], a)}
        seconds: dict[str, list[float]] = {"torch": [], "onnx": []}
        for i in range(a.rounds + 1):
            for kind, w in workers.items():
                took = w.embed()["seconds"]
                if i:  # the first warms up
                    seconds[kind].append(took)
        for w in workers.values():
            w.close()
        median = {k: statistics.median(v) for k, v in seconds.items()}
        print(f"V-JEPA 2 of ViT-L's width, {a.layers} layers, {a.frames} frames of {a.crop} px, {a.rounds} rounds:\n")
        print("| | seconds per clip, median | minimum | maximum |\n| --- | --- | --- | --- |")
        for kind, v in seconds.items():
            print(f"| {kind} | {median[kind]:.2f} | {min(v):.2f} | {max(v):.2f} |")
        print(f"\nONNX Runtime takes {median['onnx'] / median['torch']:.2f} of torch's time.\n", flush=True)


def memory(a) -> None:
    """Prints the memory and the time of one layer at 8192 tokens, fused and exported with torch alone."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # 8192 tokens: 64 frames of 256 px.
        long = Namespace(**{**vars(a), "frames": 64, "crop": 256})
        _, fused = exported(folder, long, 1, 64)
        files = {"fused": fused, "scores materialised (torch's own export)": unfused(folder, long, 64)}
        print("One layer at 8192 tokens, memory above the loaded network:\n\n| | GB | seconds |\n| --- | --- | --- |")
        for label, path in files.items():
            w = Worker("onnx", path, long)
            got = w.embed()
            w.close()
            print(f"| {label} | {got['more'] / 1e9:.2f} | {got['seconds']:.2f} |", flush=True)


if __name__ == "__main__":
    main()
