"""What every op owes its users, checked on every row of op_cases.py."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

from lora_graph.ir import OPS, Graph, parse, verify
from lora_graph.ir.types import TensorType
from lora_graph.ops.fused import Fused
from tests.op_cases import CASES, SIZES, Case
from tests.reference import close, run

SUPPLIED = {"Project", "Opaque"}
"""Ops tested elsewhere: Project by an op of two results in test_autodiff.py, Opaque in onnx/test_opaque.py."""

COMPUTED = [case for case in CASES if case.expected is not None]
WITH_OUT = [case for case in COMPUTED if case.op.writes_out and case.result is None]
FUSED = [case for case in COMPUTED if isinstance(case.op, Fused)]
EMPTY = [case for case in COMPUTED if case.empty and case.is_named]
TOLERANCE = {"float64": 1e-12, "float32": 2e-6, "float16": 2e-3}

rows = lambda cases: pytest.mark.parametrize("case", cases, ids=str)  # noqa: E731


def test_every_op_has_a_case() -> None:
    assert set(OPS) - {case.op.name for case in CASES} == SUPPLIED


@rows(CASES)
def test_text_and_pickle_give_back_the_same(case: Case) -> None:
    for floats in ("float64", "float32"):
        value = case.value(floats)
        graph = Graph(tuple(case.leaves(floats)), {"y": value})
        if case.operands:
            verify(graph)
        assert parse(str(graph)) == graph
        assert pickle.loads(pickle.dumps(value)) is value
        assert copy.deepcopy(value) is value
        assert case.value(floats) is value


@rows(COMPUTED)
def test_value_and_type(case: Case) -> None:
    """In float16 where the formula is continuous at that precision."""
    for floats in list(TOLERANCE)[: 3 if case.float16 else 2]:
        arrays = case.arrays(floats)
        before = [a.copy() for a in arrays]
        result = case.evaluate(arrays)
        assert isinstance(result, np.ndarray)
        assert TensorType(result.dtype, result.shape) == case.value(floats).type.bind(SIZES)
        with np.errstate(over="ignore"):
            truth = case.truth(arrays).astype(result.dtype)
        close(result, truth, TOLERANCE[floats])
        for array, old in zip(arrays, before, strict=True):
            np.testing.assert_array_equal(array, old)


@rows(COMPUTED)
def test_memory_layout_of_operands_does_not_matter(case: Case) -> None:
    strided = [np.repeat(np.asfortranarray(a), 2, -1)[..., ::2] if a.ndim else a for a in case.arrays()]
    close(case.evaluate(strided), case.truth(strided), 1e-12)


@rows(EMPTY)
def test_empty_batch(case: Case) -> None:
    sizes = SIZES | {"batch": 0}
    arrays = case.arrays(sizes=sizes)
    result = case.evaluate(arrays, sizes)
    close(result, case.truth(arrays).astype(result.dtype), 1e-12)


@rows(WITH_OUT)
def test_out_receives_the_result(case: Case) -> None:
    for floats in ("float64", "float16"):
        arrays = case.arrays(floats)
        expected = case.evaluate(arrays)
        out = np.full(expected.shape, 77, expected.dtype)
        result = case.bound_op().evaluate(*arrays, out=out)
        assert np.shares_memory(result, out) or not out.size
        np.testing.assert_array_equal(out, expected)


@rows([case for case in WITH_OUT if case.op.in_place])
def test_out_may_be_an_operand(case: Case) -> None:
    arrays = case.arrays()
    expected = case.evaluate(arrays)
    for position in range(min(case.op.in_place, len(arrays))):
        if (arrays[position].dtype, arrays[position].shape) == (expected.dtype, expected.shape):
            fresh = [a.copy() for a in arrays]
            case.bound_op().evaluate(*fresh, out=fresh[position])
            np.testing.assert_array_equal(fresh[position], expected)


@rows([case for case in COMPUTED if case.op.view])
def test_a_view_copies_nothing(case: Case) -> None:
    arrays = case.arrays()
    result = case.evaluate(arrays)
    assert np.shares_memory(result, arrays[0]) or not result.size


@rows(FUSED)
def test_fused_op_is_its_decomposition(case: Case) -> None:
    value = case.value()
    spelled = case.spelled()
    assert spelled.type == value.type
    arrays = case.arrays()
    close(case.evaluate(arrays), run([spelled], case.feeds(arrays), SIZES)[0], 1e-11)


@rows([case for case in COMPUTED if case.op.commutative])
def test_commutative_ops_commute(case: Case) -> None:
    left, right = case.arrays()
    np.testing.assert_array_equal(case.op.evaluate(left, right), case.op.evaluate(right, left))
