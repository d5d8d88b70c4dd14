"""Makes small graphs for the tests of this package. They have no model card; the tests add one.

    uv pip install onnx==1.23.2 numpy
    python make_fixtures.py

means.onnx       pixel_values [B, 3, 4, 4] to mean [B, 3], the mean of each channel, with a weight (zeros) in the file
half.onnx        the same in half precision
outside.onnx     the same with the weight in the file outside.onnx.data
endless.onnx     the same after 2^62 iterations of a loop
"""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

HERE = Path(__file__).parent


def model(dtype: int, loop: bool = False) -> onnx.ModelProto:
    """The graph with inputs, weights and outputs of a TensorProto.DataType, with or without the loop."""
    number = helper.tensor_dtype_to_np_dtype(dtype)
    zeros = numpy_helper.from_array(np.zeros((1, 3, 4, 4), number), "zeros")
    values, nodes, x = [zeros], [], "pixel_values"
    if loop:
        body = helper.make_graph(
            [helper.make_node("Identity", ["going"], ["on"]), helper.make_node("Add", ["state", "zeros"], ["next"])],
            "body",
            [
                helper.make_tensor_value_info("round", TensorProto.INT64, []),
                helper.make_tensor_value_info("going", TensorProto.BOOL, []),
                helper.make_tensor_value_info("state", dtype, None),
            ],
            [
                helper.make_tensor_value_info("on", TensorProto.BOOL, []),
                helper.make_tensor_value_info("next", dtype, None),
            ],
        )
        values.append(numpy_helper.from_array(np.int64(1 << 62), "rounds"))
        values.append(numpy_helper.from_array(np.bool_(True), "true"))
        nodes.append(helper.make_node("Loop", ["rounds", "true", x], ["looped"], body=body))
        x = "looped"
    nodes += [
        helper.make_node("Add", [x, "zeros"], ["sum"]),
        helper.make_node("GlobalAveragePool", ["sum"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["mean"]),
    ]
    inputs = [helper.make_tensor_value_info("pixel_values", dtype, ["batch", 3, 4, 4])]
    outputs = [helper.make_tensor_value_info("mean", dtype, ["batch", 3])]
    graph = helper.make_graph(nodes, "means", inputs, outputs, values)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


onnx.save(model(TensorProto.FLOAT), HERE / "means.onnx")
onnx.save(model(TensorProto.FLOAT16), HERE / "half.onnx")
onnx.save(model(TensorProto.FLOAT, loop=True), HERE / "endless.onnx")
(HERE / "outside.onnx.data").unlink(missing_ok=True)
onnx.save(
    model(TensorProto.FLOAT),
    HERE / "outside.onnx",
    save_as_external_data=True,
    location="outside.onnx.data",
    size_threshold=0,
)
