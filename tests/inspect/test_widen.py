"""The computation in float64, which everything is measured against."""

from __future__ import annotations

import numpy as np
import pytest

from lora_graph import ops
from lora_graph.inspect.engines import Given, Program, program_of
from lora_graph.inspect.widen import widened, widened_state
from lora_graph.ir import Graph
from tests.onnx.test_opaque import W, conditional
from tests.op_cases import CASES, Case

FIXED = ("EyeLike",)
"""Ops of which the dtype is an attribute, the same in both graphs of a case."""


@pytest.mark.parametrize("case", [case for case in CASES if case.float_operands and case.op.name not in FIXED], ids=str)
def test_every_op_of_float32_becomes_that_of_float64(case: Case) -> None:
    graph = Graph(tuple(case.leaves("float32")), {"y": case.value("float32")})
    wide = widened(graph)
    assert wide.graph == Graph(tuple(case.leaves("float64")), {"y": case.value("float64")})
    assert not wide.narrow


def test_constants_parameters_and_casts_are_wide() -> None:
    x = ops.input("x", "float32", ("batch", 3))
    w = ops.parameter("w", "float16", (3,))
    y = (x.astype("float16") * w).astype("float32") + ops.constant(0.1, "float32")
    wide = widened(Graph((x,), {"y": y, "n": y.astype("int32")}))
    assert [str(v.type) for v in wide.graph.outputs.values()] == ["float64[batch, 3]", "int32[batch, 3]"]
    program = Program(Graph((x,), {"y": y}), {"w": np.array([1, 2, 3], np.float16)})
    given = np.array([[0.1, 1e-9, 1e9]])
    found = program.reference(Given({"x": given}))["y"]
    np.testing.assert_array_equal(found, given * [1, 2, 3] + np.float64(np.float32(0.1)))


def test_what_onnx_runtime_runs_keeps_its_precision() -> None:
    program = program_of(conditional())
    assert [value.op.name for value in program.wide.narrow] == ["Opaque"]
    x = np.array([[0.1, 0.2, 0.3]])
    found = program.reference(Given({"x": x}))
    h = (x @ W.astype(np.float64)).astype(np.float32)
    np.testing.assert_array_equal(found["z"], np.maximum((h + np.float32([0.25, -1])) * np.float32(2), 0))
    assert found["z"].dtype == np.float64


def test_only_floats_of_the_state_change() -> None:
    state = widened_state({"w": np.float32([0.1]), "i": np.int32([1])})
    assert [array.dtype.name for array in state.values()] == ["float64", "int32"]
    assert state["w"][0] == np.float32(0.1)
