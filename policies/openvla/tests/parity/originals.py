"""Runs in the originals' environment (requirements.in): loads checkpoints with the published code and writes goldens.

    python originals.py CHECKPOINTS GOLDENS --fork modeling_llama.py

The fork is src/transformers/models/llama/modeling_llama.py of github.com/moojink/transformers-openvla-oft, commit
bc339d9: transformers 4.40.1 with bidirectional attention, which OpenVLA-OFT is trained with.
"""

import argparse
import ast
import contextlib
import importlib
import importlib.metadata
import importlib.util
import io
import json
import os
import sys
import types
from pathlib import Path

import numpy as np
import timm
import torch
import transformers
from PIL import Image
from transformers import GenerationMixin, PreTrainedTokenizerFast

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import cases

torch.set_num_threads(1)
SIIRL = Path(importlib.metadata.distribution("siirl").locate_file("siirl"))


def package(folder: str):
    """siirl's modules modeling and processing of one model. Importing siirl itself needs its whole stack."""
    name = f"original_{folder}"
    if name not in sys.modules:
        stub = types.ModuleType(name)
        stub.__path__ = [str(SIIRL / "models" / "embodied" / folder)]
        sys.modules[name] = stub
    with contextlib.redirect_stdout(io.StringIO()):
        return [importlib.import_module(f"{name}.{m}_prismatic") for m in ("modeling", "processing")]


def functions(file: str, names: list[str]):
    """Some functions of a siirl module, without the module's own imports."""
    import tensorflow as tf

    tree = ast.parse((SIIRL / file).read_text())
    tree.body = [n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name in names]
    scope = {"np": np, "tf": tf, "Image": Image}
    exec(compile(tree, file, "exec"), scope)
    return [scope[n] for n in names]


def load(folder: str, kind: str, fork: str | None):
    """The published model, loaded by its own from_pretrained. Only the sizes of the backbones are changed."""
    modeling, processing = package("openvla_oft" if kind == "openvla-oft" else "openvla")
    config = modeling.OpenVLAConfig.from_pretrained(folder)
    config.image_sizes = json.loads(Path(folder, "config.json").read_text())["image_sizes"]
    sizes = dict(zip(config.timm_model_ids, config.timm_model_args))
    make = timm.create_model
    modeling.timm = types.SimpleNamespace(
        create_model=lambda name, **k: make(name, **{n: v for n, v in k.items() if v is not None}, **sizes[name]),
        __version__=timm.__version__,
    )
    if fork:
        name = "transformers.models.llama.modeling_llama_oft"
        spec = importlib.util.spec_from_file_location(name, fork)
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)

        class Auto:
            @staticmethod
            def from_config(c, attn_implementation):
                return module.LlamaForCausalLM._from_config(c, attn_implementation=attn_implementation)

        modeling.AutoModelForCausalLM = Auto
    else:
        modeling.AutoModelForCausalLM = transformers.AutoModelForCausalLM
    # `_supports_sdpa` is a property that reads a module which __init__ has not created yet.
    modeling.PrismaticPreTrainedModel._supports_sdpa = True
    model, info = modeling.OpenVLAForActionPrediction.from_pretrained(
        folder, config=config, attn_implementation="sdpa", torch_dtype=torch.float32, output_loading_info=True
    )
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"], info
    assert isinstance(model, GenerationMixin) or kind == "openvla-oft" or hasattr(model, "generate")
    assert model.language_model.config._attn_implementation == "sdpa"
    with open(os.path.join(folder, "dataset_statistics.json")) as f:
        model.norm_stats = json.load(f)
    files = json.loads(Path(folder, "preprocessor_config.json").read_text())
    files.pop("image_processor_type")
    return model.eval(), processing.PrismaticImageProcessor(**files)


def preprocessing():
    """siirl's image functions as one: uint8 [H, W, 3] to (resized, and cropped), uint8 [224, 224, 3] each."""
    (resize_image,) = functions("utils/embodied/libero_utils.py", ["resize_image"])
    (crop,) = functions("engine/rollout/embodied_rollout.py", ["center_crop_image"])[:1]
    (crop.__globals__["crop_and_resize"],) = functions("engine/rollout/embodied_rollout.py", ["crop_and_resize"])
    crop.__globals__["tf"] = resize_image.__globals__["tf"]

    def preprocess(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        resized = resize_image(image, (224, 224))
        return resized, np.asarray(crop(Image.fromarray(resized)))

    return preprocess


@torch.no_grad()
def golden(model, processor, tokenizer, kind: str, instruction: str, image: np.ndarray, tokens: np.ndarray) -> dict:
    """What the original computes for one observation, by name.

    Args:
        image: uint8 [224, 224, 3], cropped.
        tokens: action tokens 0 to 255, int64 [n], whose log-probabilities are computed.
    """
    prompt = f"In: What action should the robot take to {instruction.lower()}?\nOut:"
    ids = tokenizer(prompt, return_tensors="pt").input_ids
    if not torch.all(ids[:, -1] == 29871):  # as predict_action and process_input do it
        ids = torch.cat((ids, torch.tensor([[29871]])), dim=1)
    pixels = processor(Image.fromarray(image), return_tensors="pt")["pixel_values"]
    token_ids = torch.from_numpy(tokens)[None] + 31744
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels}
    out = {"ids": ids[0].numpy(), "pixels": pixels[0, :, ::16, ::16].numpy()}
    if kind == "openvla-oft":
        logits = model(**inputs)
        actions, greedy = model.generate_action_verl(
            **inputs, unnorm_key="tiny", do_sample=False, temperature=1.0, padding_idx=32000
        )
        out["greedy"], out["actions"] = greedy[0].numpy(), actions[0]
    else:
        full = torch.cat([ids, token_ids], 1)
        logits = model(
            input_ids=full, attention_mask=torch.ones_like(full), pixel_values=pixels, use_cache=False
        ).logits[:, -len(tokens) - 1 : -1]
        # The original samples from the whole vocabulary, and the plugin from the action tokens only.
        allowed = list(range(31744, 32000))
        out["actions"] = model.predict_action(
            **inputs, unnorm_key="tiny", do_sample=False, prefix_allowed_tokens_fn=lambda *_: allowed
        )
    action_logits = logits[..., -256 - 64 : -64]
    out["logits"] = action_logits[0, :: max(1, len(tokens) // 14)].numpy()
    out["whole"] = logits[0, 0, ::64].numpy()
    log_probs = torch.log_softmax(action_logits / cases.TEMPERATURE, -1)
    out["log_probs"] = log_probs.gather(-1, (token_ids - 31744)[..., None])[0, :, 0].numpy()
    return out


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("checkpoints")
    parser.add_argument("goldens")
    parser.add_argument("--fork", required=True)
    args = parser.parse_args()
    preprocess = preprocessing()
    resized, cropped = (np.stack(x) for x in zip(*(preprocess(cases.frame(n)) for n in range(4))))
    np.savez_compressed(
        os.path.join(args.goldens, "pictures.npz"), resized=resized[:, ::5, ::3], cropped=cropped[:, ::5, ::3]
    )
    np.savez_compressed(os.path.join(args.checkpoints, "pictures.npz"), resized=resized, cropped=cropped)

    # The checkpoints saved after an update are new in each run, so their goldens are written beside them and are not
    # committed.
    for name, (arguments, causal) in [
        (case + saved, what) for case, what in cases.CASES.items() for saved in ("", cases.SAVED)
    ]:
        folder, kind = os.path.join(args.checkpoints, name), arguments["kind"]
        model, processor = load(folder, kind, None if causal else args.fork)
        tokenizer = PreTrainedTokenizerFast(tokenizer_file=os.path.join(folder, "tokenizer.json"), pad_token="<PAD>")
        tokens = cases.tokens(56 if kind == "openvla-oft" else 7)
        out = {}
        for i, instruction in enumerate(cases.INSTRUCTIONS):
            _, image = preprocess(cases.frame(cases.FRAMES[i]))
            values = golden(model, processor, tokenizer, kind, instruction, image, tokens[i])
            out |= {f"{key}{i}": value for key, value in values.items()}
        path = os.path.join(args.checkpoints if name.endswith(cases.SAVED) else args.goldens, f"{name}.npz")
        np.savez_compressed(path, **out)
        print(f"{name}: {os.path.getsize(path) / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
