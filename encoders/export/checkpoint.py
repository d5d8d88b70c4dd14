"""Finds the checkpoint of --model and checks its files: config, weights and preprocessing."""

import hashlib
import json
import math
import os
import re
import struct
from dataclasses import dataclass, field
from pathlib import Path

from talk import Refused

# The values of model_type in config.json, by family.
FAMILIES = {"vjepa2": ("vjepa2",), "dinov2": ("dinov2", "dinov2_with_registers")}

# The files of a checkpoint, by family.
FILES = {
    "vjepa2": ("config.json", "model.safetensors", "video_preprocessor_config.json"),
    "dinov2": ("config.json", "model.safetensors", "preprocessor_config.json"),
}

# The networks by model_type; "metadata" are config fields that no network uses. Of each network,
# "fields" are the config fields of its class in transformers, "unused" are other fields that change nothing, and "only"
# are those that change nothing if they have this value. "heads" are the weights outside the exported network.
NETWORKS = json.loads((Path(__file__).resolve().parent / "networks.json").read_text(encoding="utf-8"))

SAME = "use config.json and weights of the same checkpoint"
INTERPOLATION = {2: "bilinear", 3: "bicubic"}  # PIL's numbers


@dataclass
class Checkpoint:
    """A folder in the format of transformers, and the content of its files."""

    folder: Path
    family: str
    config: dict
    preprocess: dict  # as in the model card
    weights: list[Path]
    source: str
    revision: str = ""
    licence: str = ""
    place: str = field(default="", repr=False)

    def sha256(self) -> str:
        """The SHA-256 over the weight files: of each, sorted by name, its name, a NUL byte and its content."""
        h = hashlib.sha256()
        for path in sorted(self.weights, key=lambda p: p.name):
            h.update(path.name.encode() + b"\0")
            with open(path, "rb") as f:
                while block := f.read(1 << 22):
                    h.update(block)
        return h.hexdigest()

    def parameters(self) -> int:
        """The number of values in the weight files, according to their headers."""
        return sum(
            math.prod(e["shape"]) for path in self.weights for k, e in header(path).items() if k != "__metadata__"
        )


def header(path: Path) -> dict:
    """The header of a valid safetensors file: dtype, shape and data_offsets by the name of the tensor."""
    with open(path, "rb") as f:
        return json.loads(f.read(struct.unpack("<Q", f.read(8))[0]))


def find(family: str, model: str, revision: str = "") -> Checkpoint:
    """Opens and checks a checkpoint. model is a folder, or the id of a checkpoint on the model hub.

    Raises Refused: not found, unavailable (the hub), mismatch (another architecture), corrupt (a truncated file),
    invalid (unsupported preprocessing).
    """
    folder = Path(os.path.expanduser(model))
    source, commit = folder.resolve().name, ""
    if folder.is_file():
        raise Refused("invalid", f"{model} is a file", f"give its folder, with {_list(FILES[family])}")
    if not folder.is_dir():
        if not re.fullmatch(r"[\w.-]+/[\w.-]+", model):
            raise Refused(
                "not found",
                f"there is no folder {model}",
                f"give a folder with {_list(FILES[family])}, or the id of a checkpoint on the model hub, OWNER/NAME",
            )
        folder, commit, source = _fetch(family, model, revision), revision, model
        if re.fullmatch(r"[0-9a-f]{40}", folder.name):
            commit = folder.name
    elif revision:
        raise Refused(
            "invalid", "--revision is for checkpoints of the model hub, and --model is a folder", "leave it out"
        )
    config = _json(folder, "config.json", family)
    _check_family(family, config, folder)
    check_config(config, folder)
    weights = _weights(folder, family)
    names = set()
    for path in weights:
        check_safetensors(path)
        names.update(header(path))
    check_names(names, config, folder)
    return Checkpoint(
        folder,
        family,
        config,
        _preprocess(family, folder, config),
        weights,
        source,
        commit,
        _licence(folder),
        str(folder),
    )


def _list(names) -> str:
    return ", ".join(names[:-1]) + " and " + names[-1]


def _fetch(family: str, model: str, revision: str) -> Path:
    """Downloads a checkpoint from the model hub, or finds it in the hub's cache on this machine."""
    os.environ.setdefault("HF_HUB_ETAG_TIMEOUT", "10")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    patterns = ["config.json", "*.safetensors", "*.safetensors.index.json", "*preprocessor_config.json", "README.md"]
    try:
        return Path(snapshot_download(model, revision=revision or None, allow_patterns=patterns))
    except GatedRepoError as e:
        raise Refused(
            "unavailable",
            f"{model} requires that you accept its licence",
            "accept it on the checkpoint's page of the hub and set HF_TOKEN, or download the files there",
        ) from e
    except RevisionNotFoundError as e:
        raise Refused(
            "not found", f"{model} has no revision {revision}", "leave --revision out to use the newest"
        ) from e
    except RepositoryNotFoundError as e:
        raise Refused(
            "not found",
            f"the model hub has no {model}, or it is private",
            "check the id; for a private checkpoint set HF_TOKEN",
        ) from e
    except Exception as e:  # the hub's client passes on errors of its HTTP library, which differ by version
        name = model.split("/")[-1]
        raise Refused(
            "unavailable",
            f"{model} is not on this machine and the model hub cannot be reached ({type(e).__name__})",
            f"on a machine with a network, download {_list(FILES[family])} of {model}, put them into one folder here,"
            f" for example ~/models/{name}, and set --model ~/models/{name}",
        ) from e


def _json(folder: Path, name: str, family: str) -> dict:
    """Reads a JSON object from a file of the checkpoint. Raises Refused: not found, corrupt."""
    path = folder / name
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise Refused(
            "not found",
            f"{folder} has no {name}",
            f"a checkpoint in the format of transformers has {_list(FILES[family])}: add the missing file",
        ) from None
    except (ValueError, UnicodeDecodeError) as e:
        raise Refused("corrupt", f"it is not JSON: {e}", "copy the file again", str(path)) from None
    if not isinstance(value, dict):
        raise Refused("corrupt", "it is not a JSON object", "copy the file again", str(path))
    return value


def _check_family(family: str, config: dict, folder: Path) -> None:
    """Raises Refused (mismatch) if model_type in config.json is not of the family."""
    kind = config.get("model_type", "")
    if kind in FAMILIES[family]:
        return
    other = [f for f, kinds in FAMILIES.items() if kind in kinds]
    hint = (
        f"srpo encoder export {other[0]} --model {folder}"
        if other
        else f"{family} supports checkpoints with model_type {' or '.join(FAMILIES[family])}"
    )
    raise Refused(
        "mismatch",
        f'the checkpoint is of another architecture: model_type = "{kind}", not {family}',
        hint,
        str(folder / "config.json"),
    )


def few(names) -> str:
    """The first four names in alphabetical order, and the number of others."""
    names = sorted(names)
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def check_config(config: dict, folder: Path) -> None:
    """Checks that the exporter knows every field of config.json that can change the network.

    Raises Refused (unsupported) for others, which transformers ignores: the exported network would be another one.
    """
    known = NETWORKS[config["model_type"]]
    place = str(folder / "config.json")
    classes = config.get("architectures") or []
    other = sorted(set(map(str, classes)) - set(known["classes"])) if isinstance(classes, list) else [str(classes)]
    if other:
        raise Refused(
            "unsupported",
            f"architectures names {few(other)}, which model_type {config['model_type']} does not have in transformers",
            known["hint"],
            place,
        )
    fields = {*NETWORKS["metadata"], *known["fields"], *known["unused"]}
    unknown = [
        k
        for k, v in config.items()
        if not (k in fields or k.startswith("_") or v is None or (k in known["only"] and _same(v, known["only"][k])))
    ]
    if unknown:
        raise Refused(
            "unsupported",
            f"the exporter does not know {len(unknown)} of its fields, which may change the network: {few(unknown)}",
            known["hint"] + "; delete a field only if it does not change the network",
            place,
        )


def _same(a, b) -> bool:
    """Whether two values of JSON are equal. In Python alone, 0 == False."""
    return isinstance(a, bool) == isinstance(b, bool) and a == b


def check_names(names: set[str], config: dict, folder: Path) -> None:
    """Checks the names of the weights.

    Raises Refused (corrupt) if one occurs twice, with the prefix of a model with a head and without it; (mismatch) if
    they have more or fewer layers than config.json.
    """
    known = NETWORKS[config["model_type"]]
    prefix = known["prefix"]
    twice = [n for n in names if prefix + n in names]
    if twice:
        raise Refused(
            "corrupt",
            f"{len(twice)} of the weights occur twice, with and without {prefix} before the name: {few(twice)}",
            "keep one of the two networks in the weight file",
            str(folder),
        )
    found = [re.match(r"encoder\.layer\.(\d+)\.", n.removeprefix(prefix)) for n in names]
    layers = max((int(m.group(1)) + 1 for m in found if m), default=0)
    want = config.get("num_hidden_layers", known["layers"])
    if layers and layers != want:
        raise Refused(
            "mismatch",
            f"the weights have {layers} layers, num_hidden_layers in config.json is {want}",
            SAME,
            str(folder),
        )


def unexpected_weights(names, kind: str, folder: Path) -> Refused:
    """The error for weights that the network of config.json does not have."""
    return Refused(
        "mismatch",
        f"the network that config.json describes has no place for {len(names)} of the weights: {few(names)}",
        f"{SAME}; " + NETWORKS[kind]["hint"],
        str(folder),
    )


def _weights(folder: Path, family: str) -> list[Path]:
    """The weight files of the checkpoint. Raises Refused (not found)."""
    index = folder / "model.safetensors.index.json"
    adapter = next((n for n in ("adapter_config.json", "adapter_model.safetensors") if (folder / n).exists()), "")
    if adapter:
        raise Refused(
            "unsupported",
            f"{folder} has an adapter ({adapter}), which would not be exported",
            "merge the adapter into the weights (merge_and_unload of PEFT), or remove it from the folder",
        )
    if index.exists():
        names = sorted(set(_json(folder, index.name, family).get("weight_map", {}).values()))
        missing = [n for n in names if not (folder / n).is_file()]
        if missing or not names:
            raise Refused(
                "not found",
                f"{folder} lacks {', '.join(missing[:3]) or 'weights'}, which {index.name} lists",
                "copy the missing files to the folder",
            )
        if "model.safetensors" not in names and (folder / "model.safetensors").exists():
            raise Refused(
                "invalid",
                f"{folder} has model.safetensors and, in {index.name}, other weight files",
                "keep the files of one checkpoint in the folder",
            )
        return [folder / n for n in names]
    if (folder / "model.safetensors").is_file():
        return [folder / "model.safetensors"]
    hint = "copy model.safetensors to the folder"
    if list(folder.glob("pytorch_model*.bin")):
        hint = "convert pytorch_model.bin: load it with transformers and save it with save_pretrained"
    raise Refused("not found", f"{folder} has no model.safetensors", hint)


def check_safetensors(path: Path) -> None:
    """Checks the length of a safetensors file against its header, without loading it. Raises Refused (corrupt)."""
    again = "copy or download the file again: it is incomplete"
    size = path.stat().st_size
    with open(path, "rb") as f:
        head = f.read(8)
        if len(head) < 8:
            raise Refused("corrupt", f"it is truncated: {size} bytes", again, str(path))
        length = struct.unpack("<Q", head)[0]
        if 8 + length > size:
            what = "it is truncated within its header" if length < 1 << 30 else "it is not a safetensors file"
            raise Refused("corrupt", what, again, str(path))
        try:
            entries = json.loads(f.read(length))
            end = max((e["data_offsets"][1] for k, e in entries.items() if k != "__metadata__"), default=0)
        except (ValueError, KeyError, TypeError, AttributeError):
            raise Refused("corrupt", "it is not a safetensors file", again, str(path)) from None
    if 8 + length + end != size:
        raise Refused(
            "corrupt",
            f"it is truncated: it has {size} bytes, {8 + length + end} according to its header",
            again,
            str(path),
        )


def _preprocess(family: str, folder: Path, config: dict) -> dict:
    """The preprocessing of frames, from the checkpoint's preprocessor config, as in the model card. Raises Refused."""
    names = ["preprocessor_config.json"]
    if family == "vjepa2":
        names.insert(0, "video_preprocessor_config.json")
    name = next((n for n in names if (folder / n).exists()), names[0])
    p = _json(folder, name, family)
    place = str(folder / name)

    def bad(message: str, hint: str = "use the file that was published with the checkpoint") -> Refused:
        return Refused("invalid", message, hint, place)

    for key in ("do_resize", "do_rescale", "do_normalize"):
        if p.get(key) is False:
            raise bad(f"srpo's encoders do not support {key} = false")
    out: dict = {"antialias": True, "rescale": p.get("rescale_factor", 1 / 255)}
    default = {"vjepa2": 2, "dinov2": 3}[family]
    if p.get("resample", default) not in INTERPOLATION:
        raise bad(f"resample = {p['resample']} is neither bilinear (2) nor bicubic (3)")
    out["interpolation"] = INTERPOLATION[p.get("resample", default)]
    for key in ("mean", "std"):
        v = p.get("image_" + key)
        if not (isinstance(v, list) and len(v) == 3 and all(isinstance(x, int | float) for x in v)):
            raise bad(f"image_{key} is not a list of three numbers")
        out[key] = [float(x) for x in v]
    if min(out["std"]) <= 0:
        raise bad("image_std is not positive")
    crop = _side(p.get("crop_size"))
    if family == "vjepa2":
        if crop is None:
            raise bad("crop_size is not a square")
        if crop != config.get("crop_size", 256):
            raise Refused(
                "mismatch",
                f"crop_size is {crop}, but {config.get('crop_size', 256)} in config.json",
                "use two files from the same checkpoint",
                place,
            )
        # The published processor ignores size in the file.
        out.update(resize=int(crop * 256 / 224), resize_mode="short_side", crop=crop)
    else:
        size = p.get("size")
        short = size.get("shortest_edge") if isinstance(size, dict) else size
        if short is not None and p.get("do_center_crop", True):
            if crop is None:
                raise bad("crop_size is not a square")
            out.update(resize=int(short), resize_mode="short_side", crop=crop)
        elif _side(size) is not None:
            side = _side(size)
            out.update(resize=side, resize_mode="exact", crop=crop if p.get("do_center_crop") and crop else side)
        else:
            raise bad("size gives neither shortest_edge nor a square")
    if out["crop"] > out["resize"]:
        raise bad(f"crop_size {out['crop']} is larger than the size after resizing, {out['resize']}")
    patch = config.get("patch_size", {"vjepa2": 16, "dinov2": 14}[family])
    patch = patch if isinstance(patch, int) else patch[0]
    if out["crop"] % patch or out["crop"] < patch:
        raise bad(f"crop_size {out['crop']} is not a multiple of the patch size {patch}")
    return out


def _side(size) -> int | None:
    """The side of a square given as a number or as {"height", "width"}; None for anything else."""
    if isinstance(size, dict):
        size = size["height"] if "height" in size and size.get("height") == size.get("width") else None
    return size if isinstance(size, int) and not isinstance(size, bool) and size > 0 else None


def _licence(folder: Path) -> str:
    """The licence in the front matter of README.md, or an empty string."""
    try:
        text = (folder / "README.md").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""
    head = re.match(r"---\n(.*?)\n---", text, re.S)
    line = re.search(r"^license:\s*(\S+)", head.group(1), re.M) if head else None
    return line.group(1) if line else ""
