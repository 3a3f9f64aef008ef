"""Normalization over the batch: a node in training mode, and the errors of both normalizations over channels."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper

from lora_graph import ops
from lora_graph.autodiff import gradients
from lora_graph.ir import input  # noqa: A004
from lora_graph.onnx import read_model
from tests.reference import close, differences, run

NAMES = ("scale", "bias", "mean", "var")


def training_node(shape: tuple[Any, ...], **attributes: Any) -> onnx.ModelProto:
    results = ("y", "new_mean", "new_var")
    node = helper.make_node("BatchNormalization", ["x", *NAMES], results, training_mode=1, **attributes)
    float32 = onnx.TensorProto.FLOAT
    given = [helper.make_tensor_value_info("x", float32, shape)]
    given += [helper.make_tensor_value_info(name, float32, [shape[1]]) for name in NAMES]
    outputs = [helper.make_tensor_value_info(name, float32, None) for name in results]
    graph = helper.make_graph([node], "training", given, outputs)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


@pytest.mark.parametrize("attributes", [{}, {"momentum": 0.25, "epsilon": 0.5}])
@pytest.mark.parametrize("shape", [("batch", 2, 3, 2), (5, 3), (2, 3, 4)])
def test_a_node_in_training_mode_is_read_as_statistics_of_the_batch(shape: Any, attributes: dict[str, float]) -> None:
    rng = np.random.default_rng(3)
    model = training_node(shape, **attributes)
    sizes = [4 if size == "batch" else size for size in shape]
    feeds = {"x": rng.normal(1, 2, sizes), **{name: rng.uniform(0.5, 2, shape[1]) for name in NAMES}}
    feeds = {name: array.astype(np.float32) for name, array in feeds.items()}
    read = read_model(model).graph
    assert list(read.op_counts()).count("BatchNormalization") == 1
    found = run(list(read.outputs.values()), feeds, {"batch": 4})
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    for mine, theirs in zip(found, session.run(None, feeds), strict=True):
        close(mine, theirs, 1e-5)


def test_the_gradient_in_training_goes_through_the_statistics() -> None:
    rng = np.random.default_rng(5)
    x = input("x", np.float64, (3, 2, 2))
    scale, bias = (input(name, np.float64, (2,)) for name in ("scale", "bias"))
    y = ops.batch_normalization(x, scale, bias, x.mean(axis=(0, 2)), x.var(axis=(0, 2)))
    weights = input("weights", np.float64, (3, 2, 2))
    arrays = [rng.standard_normal(leaf.shape) for leaf in (x, scale, bias, weights)]

    def loss(a: Any, s: Any, b: Any, w: Any) -> Any:
        centred = a - a.mean((0, 2), keepdims=True)
        return (w * (centred / np.sqrt(a.var((0, 2), keepdims=True) + 1e-5) * s[:, None] + b[:, None])).sum()

    feeds = dict(zip(("x", "scale", "bias", "weights"), arrays, strict=True))
    for position, found in enumerate(run(gradients((y * weights).sum(), [x, scale, bias]), feeds)):
        close(found, differences(loss, arrays, position), 1e-7)


def test_small_deviations_of_a_large_mean_are_not_lost() -> None:
    x = input("x", np.float32, (64, 1, 8))
    leaves = [input(name, np.float32, (1,)) for name in NAMES]
    array = (1000 + np.random.default_rng(1).standard_normal((64, 1, 8))).astype(np.float32)
    feeds = {"x": array, **{name: np.full(1, n, np.float32) for name, n in zip(NAMES, (1, 0, 1000, 1), strict=True)}}
    (y,) = run([ops.batch_normalization(x, *leaves)], feeds)
    close(y, (array.astype(np.float64) - 1000) / np.sqrt(1 + 1e-5), 1e-6)


def test_errors_name_the_operand() -> None:
    x = input("x", np.float32, ("batch", 3, "width"))
    three, four = (input(f"p{n}", np.float32, (n,)) for n in (3, 4))
    with pytest.raises(ValueError, match=r"mean float32\[4\] for the channels of float32\[batch, 3, width\]"):
        ops.batch_normalization(x, three, three, four, three)
    with pytest.raises(ValueError, match="bias must have one axis"):
        ops.batch_normalization(x, three, x, three, three)
    with pytest.raises(ValueError, match="batch and a channel axis"):
        ops.batch_normalization(three, three, three, three, three)
    with pytest.raises(TypeError, match="floats of one dtype"):
        ops.batch_normalization(x, three, three, three, three.astype(np.float64))
