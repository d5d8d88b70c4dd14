"""Exports a network in torch to an ONNX file that ONNX Runtime runs without materialising attention scores."""

from pathlib import Path

import onnx_ir as ir
import torch
from transformers import AttentionInterface, AttentionMaskInterface

from talk import Refused

# A protobuf message must be smaller than 2 GiB. A model with more weights than this has them in a second file.
INLINE_BYTES = 1_900_000_000
# Tensors smaller than this always stay in the model file.
SMALL_BYTES = 1024
OPSET = 20  # has Gelu


def _fused(module, query, key, value, attention_mask, scaling=None, dropout=0.0, **_):
    """Attention as one com.microsoft.MultiHeadAttention node, which works in tiles and never stores S x S scores.

    query, key and value are [B, heads, S, D]; the result is [B, S, heads, D].
    """
    if attention_mask is not None:
        raise Refused("internal", "fused attention does not support the attention mask of this network", "report it")
    b, heads, s, d = query.shape
    flat = [x.transpose(1, 2).reshape(b, s, heads * d) for x in (query, key, value)]
    scale = d**-0.5 if scaling is None else scaling
    out = torch.onnx.ops.symbolic(
        "com.microsoft::MultiHeadAttention",
        flat,
        {"num_heads": heads, "scale": scale},
        dtype=query.dtype,
        shape=flat[0].shape,
        version=1,
    )
    return out.view(b, s, heads, d), None


AttentionInterface.register("srpo_fused", _fused)
AttentionMaskInterface.register("srpo_fused", lambda *_, **__: None)


def export(wrapper, sample: torch.Tensor) -> ir.Model:
    """The graph of a network with a dynamic batch size. sample is an input with a batch of at least 2.

    Raises Refused (internal) if the attention of a layer is not fused or the batch size is fixed.
    """
    wrapper.model.set_attn_implementation("srpo_fused")
    with torch.no_grad():
        program = torch.onnx.export(
            wrapper,
            (sample,),
            dynamo=True,
            opset_version=OPSET,
            input_names=[wrapper.inputs],
            output_names=list(wrapper.outputs),
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            verbose=False,
        )
    model = program.model
    layers = wrapper.model.config.num_hidden_layers
    kinds = [n.op_type for n in model.graph.all_nodes()]
    if kinds.count("MultiHeadAttention") != layers or "Softmax" in kinds or "Attention" in kinds:
        raise Refused(
            "internal",
            f"{kinds.count('MultiHeadAttention')} of {layers} layers have fused attention",
            "this exporter does not support the checkpoint: report it with its config.json",
        )
    batch = model.graph.inputs[0].shape[0]
    if isinstance(batch, int):
        raise Refused(
            "internal", f"the graph has the fixed batch size {batch}", "report it with the checkpoint's config.json"
        )
    _strip(model)
    return model


def _strip(model: ir.Model) -> None:
    """Removes debugging information of torch's exporter: source lines and paths of this machine."""
    model.metadata_props.clear()
    model.doc_string = None
    for graph in [model.graph, *(f.graph for f in model.functions.values())]:
        graph.doc_string = None
        graph.metadata_props.clear()
        for node in graph.all_nodes():
            node.metadata_props.clear()
            node.doc_string = None
            for value in node.outputs:
                value.metadata_props.clear()
                value.doc_string = None
        for value in [*graph.inputs, *graph.initializers.values()]:
            value.metadata_props.clear()
            value.doc_string = None


def weight_bytes(model: ir.Model) -> int:
    """The size of the model's weights in bytes."""
    return sum(v.const_value.nbytes for v in model.graph.initializers.values() if v.const_value is not None)


def save(model: ir.Model, path: Path, weight_file: str) -> bool:
    """Writes the model. Weights of more than INLINE_BYTES go into a second file, weight_file in the same folder.

    Returns whether there is a second file.
    """
    external = weight_bytes(model) > INLINE_BYTES
    if external:
        ir.save(model, path, external_data=weight_file, size_threshold_bytes=SMALL_BYTES)
    else:
        ir.save(model, path)
    return external
