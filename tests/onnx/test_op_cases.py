"""Every row of op_cases.py through ONNX: the same numbers in ONNX Runtime, the same graph when it is read back."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import onnx
import pytest

from lora_graph.ir import Graph, Input, Parameter, TensorType, Value, apply, input, topological  # noqa: A004
from lora_graph.onnx import Session, lower, read_model
from lora_graph.onnx.kernels import why_not
from lora_graph.ops.fused import Fused
from tests.op_cases import CASES, SIZES, Case
from tests.reference import close

OPSETS = [21, 26]
TOLERANCE = {"float64": 1e-12, "float32": 2e-6, "float16": 4e-3}

NO_KERNEL = {"Where-7": "bool", "Relu-3": "int64"}
"""Rows for which ONNX has an op and ONNX Runtime no kernel, which the exporter has to say."""

NO_EMPTY = {*(f"MatMul-{i}" for i in (2, 7, 8, 9, 13)), *(f"SoftmaxCrossEntropyLoss-{i}" for i in (3, 4, 6, 7))}
"""ONNX Runtime refuses to broadcast an empty stack of matrices, and this loss of an empty batch; a convolution without
channels, which the gradient of a kernel comes to when the batch is empty, never ends there."""

EXPORTABLE = [case for case in CASES if case.onnx and str(case) not in NO_KERNEL]
COMPUTED = [case for case in EXPORTABLE if case.expected is not None]
WITHOUT_EMPTY = {"ConvWeightGradient", "LSTM", "GRU"}
"""Ops that ONNX Runtime 1.31 does not take an empty batch for: its LSTM and GRU even end the process."""
EMPTY = [
    case
    for case in COMPUTED
    if case.empty and case.is_named and str(case) not in NO_EMPTY and case.op.name not in WITHOUT_EMPTY
]

rows = lambda cases: pytest.mark.parametrize("case", cases, ids=str)  # noqa: E731


def program(case: Case, floats: str) -> tuple[Graph, dict[str, Any]]:
    """The case as a graph and a state; the input ``sizes`` has every named dimension, for ops without operands."""
    value, arrays = case.value(floats), {}
    inputs = [v for v in topological([*case.leaves(floats), value]) if isinstance(v.op, Input)]
    inputs.append(input("sizes", np.float32, tuple(SIZES)))
    if isinstance(value.op, Parameter):
        arrays[value.op.label] = np.arange(6, dtype=value.dtype).reshape(2, 3)
    return Graph(tuple(inputs), {"y": value}), arrays


def feeds(case: Case, floats: str, sizes: dict[str, int]) -> dict[str, Any]:
    arrays = case.feeds(case.arrays(floats, sizes))
    return {**arrays, "sizes": np.zeros([sizes[name] for name in SIZES], np.float32)}


def written_out(value: Value, opset: int) -> Value:
    """``value`` with the fused ops that cannot be written as they are replaced by what they stand for."""
    new: dict[Value, Value] = {}
    for old in topological([value]):
        operands = [new[operand] for operand in old.operands]
        if isinstance(old.op, Fused) and cannot_stand(old.op, [operand.type for operand in operands], opset):
            new[old] = written_out(old.op.decompose(*operands), opset)
        else:
            new[old] = apply(old.op, *operands)
    return new[value]


def cannot_stand(op: Fused, operands: list[TensorType], opset: int) -> bool:
    rounded = any(isinstance(a, float) and float(np.float32(a)) != a for a in op.attributes().values())
    return bool(why_not(op.name, operands, opset)) or (operands[0].dtype == np.float64 and rounded)


def precisions(case: Case) -> list[str]:
    return ["float32", "float64"] if case.onnx64 else ["float32"]


@rows([case for case in EXPORTABLE if case.readable])
def test_model_is_valid_and_reads_back_as_the_same_graph(case: Case) -> None:
    for floats, opset in product(precisions(case), OPSETS):
        graph, state = program(case, floats)
        model = lower(graph, state, opset=opset)
        onnx.checker.check_model(model, full_check=True)
        read = read_model(model.SerializeToString())
        expected = graph.with_outputs({"y": written_out(graph.outputs["y"], opset)})
        assert read.graph == expected, f"opset {opset}\n{graph}\n{read.graph}"
        assert {n: a.tobytes() for n, a in read.state.items()} == {n: a.tobytes() for n, a in state.items()}


@rows([case for case in EXPORTABLE if not case.onnx64 and case.op.attributes().get("approximate") != "tanh"])
def test_a_missing_kernel_is_an_error_that_names_op_and_dtype(case: Case) -> None:
    with pytest.raises(ValueError, match=r"has no [A-Z]\w+ for float64"):
        lower(*program(case, "float64"))


@pytest.mark.parametrize(("row", "dtype"), NO_KERNEL.items())
def test_a_kernel_missing_for_other_dtypes_is_an_error_too(row: str, dtype: str) -> None:
    (case,) = [case for case in CASES if str(case) == row]
    with pytest.raises(ValueError, match=f"{case.op.name} for {dtype}"):
        lower(*program(case, "float32"))


@rows(COMPUTED)
def test_onnx_runtime_computes_the_formula(case: Case) -> None:
    for floats in precisions(case):
        compare(case, floats, SIZES)


@rows([case for case in COMPUTED if case.float16 and case.float_operands])
def test_half_precision(case: Case) -> None:
    if case.op.attributes().get("reduction") == "add":
        with pytest.raises(ValueError, match=f"{case.op.name} for float16"):
            lower(*program(case, "float16"))
    else:
        compare(case, "float16", SIZES)


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
