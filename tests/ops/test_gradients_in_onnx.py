"""The gradient of every row, lowered to ONNX: a training step runs in ONNX Runtime only if each of these does."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lora_graph.autodiff import gradients
from lora_graph.ir import Graph, input  # noqa: A004
from lora_graph.onnx import Session, lower, read_model
from tests.op_cases import CASES, SIZES, Case
from tests.reference import close, run

DIFFERENTIABLE = [case for case in CASES if case.expected is not None and case.differentiable and case.float_operands]
INEXACT = 1e-5
"""float32: the gradients of a few rows cancel digits."""


def gradient_graph(case: Case, floats: str) -> Graph:
    leaves, value = case.leaves(floats), case.value(floats)
    cotangent = input("cotangent", value.dtype, value.shape)
    sizes = input("sizes", np.float32, tuple(SIZES))
    found = gradients(value, [leaves[i] for i in case.float_operands], cotangent)
    outputs = {f"d{i}": gradient for i, gradient in zip(case.float_operands, found, strict=True)}
    return Graph((*leaves, cotangent, sizes), outputs)


def feeds(case: Case, floats: str, sizes: dict[str, int]) -> dict[str, Any]:
    shape = case.value(floats).type.bind(sizes).shape
    cotangent = np.random.default_rng(17).standard_normal([int(d) for d in shape])
    return {
        **case.feeds(case.arrays(floats, sizes)),
        "cotangent": np.asarray(cotangent, floats),
        "sizes": np.zeros([sizes[name] for name in SIZES], np.float32),
    }


@pytest.mark.parametrize("case", DIFFERENTIABLE, ids=str)
def test_gradient_in_onnx_runtime(case: Case) -> None:
    graph = gradient_graph(case, "float32")
    names = list(graph.outputs)
    model = lower(graph, {})
    fed = feeds(case, "float32", SIZES)
    with Session(model) as session:
        found = session.run({name: fed[name] for name in graph.input_names})
    by_name = found if isinstance(found, dict) else {names[0]: found}
    precise = gradient_graph(case, "float64")
    wide = {n: a.astype(np.float64) if a.dtype == np.float32 and n != "sizes" else a for n, a in fed.items()}
    truth = run([precise.outputs[name] for name in names], wide, SIZES)
    for name, expected in zip(names, truth, strict=True):
        close(by_name[name], expected, INEXACT)
    if "Scan" in graph.op_counts():
        return  # loops are not read
    read = read_model(model.SerializeToString()).graph
    assert read.inputs == graph.inputs
    assert {n: v.type for n, v in read.outputs.items()} == {n: v.type for n, v in graph.outputs.items()}
