"""Every row of op_cases.py through ONNX: the same numbers in ONNX Runtime, the same graph when it is read back."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from lora_graph.ir import Graph, Input, Parameter, Value, topological
from lora_graph.onnx import Session, lower, read_model
from lora_graph.onnx.kernels import why_not
from lora_graph.ops.fused import Fused
from tests.op_cases import CASES, SIZES, Case
from tests.reference import close

OPSETS = [21, 23, 26]
EXPORTABLE = [case for case in CASES if case.onnx]
COMPUTED = [case for case in EXPORTABLE if case.expected is not None]
EMPTY = [case for case in COMPUTED if case.empty and case.is_named]
TOLERANCE = {"float64": 1e-12, "float32": 2e-6}

rows = lambda cases: pytest.mark.parametrize("case", cases, ids=str)  # noqa: E731


def program(case: Case, floats: str) -> tuple[Graph, dict[str, Any]]:
    """The case as a graph and a state; the leaf ``size`` makes named dimensions known where no operand has them."""
    value, arrays = case.value(floats), {}
    inputs = [v for v in topological([*case.leaves(floats), value]) if isinstance(v.op, Input)]
    inputs += [size_leaf(case, inputs)]
    if isinstance(value.op, Parameter):
        arrays[value.op.label] = np.arange(6, dtype=value.dtype).reshape(value.shape)
    return Graph(tuple(inputs), {"y": value}), arrays


def size_leaf(case: Case, inputs: list[Value]) -> Value:
    from lora_graph.ir import input  # noqa: A004

    return input("sizes", np.float32, ("batch", "time", "width"))


def feeds(case: Case, floats: str, sizes: dict[str, int]) -> dict[str, Any]:
    arrays = case.feeds(case.arrays(floats, sizes))
    return {**arrays, "sizes": np.zeros([sizes[name] for name in ("batch", "time", "width")], np.float32)}


def expanded(graph: Graph, opset: int, floats: str) -> Graph:
    """The graph with the fused ops that ONNX Runtime has no kernel for written out."""
    from lora_graph.ir import apply

    new: dict[Value, Value] = {}
    pending = list(topological([*graph.inputs, *graph.outputs.values()]))
    for value in pending:
        operands = [new[operand] for operand in value.operands]
        types = [operand.type for operand in operands]
        rounded = floats == "float64" and any(
            isinstance(a, float) and float(np.float32(a)) != a for a in value.op.attributes().values()
        )
        if isinstance(value.op, Fused) and (why_not(value.op.name, types, opset) or rounded):
            inner = Graph(graph.inputs, {"y": value.op.decompose(*operands)})
            new[value] = expanded(inner, opset, floats).outputs["y"]
        else:
            new[value] = value if not operands else apply(value.op, *operands)
    return graph.with_outputs({name: new[value] for name, value in graph.outputs.items()})


@rows(EXPORTABLE)
@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("floats", ["float32", "float64"])
def test_model_is_valid_and_reads_back_as_the_same_graph(case: Case, opset: int, floats: str) -> None:
    if floats == "float64" and not case.onnx64:
        pytest.skip("no float64 form")
    graph, state = program(case, floats)
    model = lower(graph, state, opset=opset)
    onnx.checker.check_model(model, full_check=True)
    read = read_model(model.SerializeToString())
    assert read.graph == expanded(graph, opset, floats), f"{graph}\n{read.graph}"
    assert {name: array.tobytes() for name, array in read.state.items()} == {n: a.tobytes() for n, a in state.items()}


@rows(COMPUTED)
@pytest.mark.parametrize("floats", ["float32", "float64"])
def test_onnx_runtime_computes_the_formula(case: Case, floats: str) -> None:
    if floats == "float64" and not case.onnx64:
        graph, state = program(case, floats)
        with pytest.raises(ValueError, match="float64"):
            lower(graph, state)
        return
    compare(case, floats, SIZES)


@rows(EMPTY)
def test_onnx_runtime_takes_an_empty_batch(case: Case) -> None:
    compare(case, "float32", SIZES | {"batch": 0})


def compare(case: Case, floats: str, sizes: dict[str, int]) -> None:
    graph, state = program(case, floats)
    given = feeds(case, floats, sizes)
    result = Session(lower(graph, state)).run(given)
    truth = case.truth(case.arrays(floats, sizes))
    assert result.dtype == graph.outputs["y"].dtype
    with np.errstate(over="ignore"):
        close(result, truth.astype(result.dtype), TOLERANCE[floats])
