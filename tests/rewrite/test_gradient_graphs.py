"""What a step does backwards: closed forms, each in as few passes over its arrays as there are here.

LORA_GRAPH_GOLDEN=write writes the texts anew.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lora_graph import ops
from lora_graph.autodiff import gradients
from lora_graph.ir import Graph, Value, parse
from lora_graph.ops.normalization import batch_statistics
from lora_graph.rewrite import optimize_graph
from lora_graph.train.loss import loss_of
from tests.rewrite.running import graph_of

GOLDEN = Path(__file__).parent.parent / "golden"
X, C = (ops.input(name, "float32", ("batch", "time", 8)) for name in "xc")
IMAGES, D = (ops.input(name, "float32", ("batch", 4, 8, 8)) for name in ("images", "d"))
SCALE, BIAS = (ops.parameter(name, "float32", (8,)) for name in ("scale", "bias"))
GAIN, SHIFT = (ops.parameter(name, "float32", (4,)) for name in ("gain", "shift"))
LABELS = ops.input("labels", "int64", ("batch", "time"))
PROBABILITIES = ops.softmax(X)

LOSSES: dict[str, tuple[Value, list[Value]]] = {
    "layer_normalization": ((ops.layer_normalization(X, SCALE, BIAS) * C).sum(), [X, SCALE, BIAS]),
    "rms_normalization": ((ops.rms_normalization(X, SCALE) * C).sum(), [X, SCALE]),
    "batch_normalization": (
        (ops.batch_normalization(IMAGES, GAIN, SHIFT, *batch_statistics(IMAGES)) * D).sum(),
        [IMAGES, GAIN, SHIFT],
    ),
    "softmax": ((PROBABILITIES * C).sum(), [X]),
    "safe_softmax": ((ops.where(ops.is_nan(PROBABILITIES), 0.0, PROBABILITIES) * C).sum(), [X]),
    "gelu": ((ops.gelu(X) * C).sum(), [X]),
    "gelu_tanh": ((ops.gelu_tanh(X) * C).sum(), [X]),
    "silu": ((ops.silu(X) * C).sum(), [X]),
    "mse": (loss_of("mse", X, C, None), [X]),
    "binary_cross_entropy": (loss_of("binary_cross_entropy", X, C, None), [X]),
    "cross_entropy": (loss_of("cross_entropy", X, LABELS, None), [X]),
}
FULL = {
    "layer_normalization": {"LayerNormalization": 1, "Mul": 6, "ReduceMean": 4, "ReduceSum": 3, "Sub": 3, "Div": 2},
    "batch_normalization": {"BatchNormalization": 1, "Mul": 4, "ReduceMean": 1, "ReduceVariance": 1, "ReduceSum": 3}
    | {"Sub": 1, "Add": 2},
    "safe_softmax": {"SafeSoftmax": 1, "Mul": 3, "ReduceSum": 2, "Sub": 1},
    "gelu": {"Erf": 1, "Exp": 1, "Mul": 8, "Add": 3, "ReduceSum": 1},
    "gelu_tanh": {"Sigmoid": 1, "Mul": 9, "Add": 3, "Sub": 1, "ReduceSum": 1},
    "mse": {"Sub": 1, "Mul": 2, "ReduceMean": 1},
    "cross_entropy": {"LogSoftmax": 1, "GatherElements": 1, "Exp": 1, "ScatterElements": 1, "Mul": 1, "Reshape": 2},
}
"""How many ops read or write an array as large as what the gradient is by."""


def step(name: str) -> Graph:
    loss, by = LOSSES[name]
    forward = optimize_graph(graph_of({"loss": loss}), "train").graph.outputs["loss"]
    return graph_of({"loss": forward, **{f"d{i}": g for i, g in enumerate(gradients(forward, by))}})


@pytest.mark.parametrize("name", LOSSES)
def test_the_text_of_a_gradient(name: str) -> None:
    path = GOLDEN / f"gradient_{name}.txt"
    before = step(name)
    text = f"{before}\n\n{optimize_graph(before, 'train').graph}\n"
    if os.environ.get("LORA_GRAPH_GOLDEN") == "write":
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")
    assert [parse(part) for part in text.split("\n\n")] == [before, optimize_graph(before, "train").graph]


@pytest.mark.parametrize("name", FULL)
def test_passes_over_whole_arrays(name: str) -> None:
    graph = optimize_graph(step(name), "train").graph
    whole = LOSSES[name][1][0].size
    passes: dict[str, int] = {}
    for value in graph.values:
        if value.operands and whole in [value.size, *(operand.size for operand in value.operands)]:
            passes[value.op.name] = passes.get(value.op.name, 0) + 1
    assert passes == FULL[name]
