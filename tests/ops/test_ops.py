"""What every op owes its users, checked on every row of op_cases.py."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest

from lora_graph.autodiff import gradients
from lora_graph.ir import OPS, Graph, Value, input, parse, verify  # noqa: A004
from lora_graph.ir.types import TensorType
from lora_graph.ops.fused import Fused
from tests.op_cases import CASES, SIZES, Case
from tests.reference import close, differences, program, run

SUPPLIED = {"Project", "Opaque"}
"""Ops tested elsewhere: Project by an op of two results in test_autodiff.py, Opaque in onnx/test_opaque.py."""

COMPUTED = [case for case in CASES if case.expected is not None]
WITH_OUT = [case for case in COMPUTED if case.op.writes_out and case.result is None]
DIFFERENTIABLE = [case for case in COMPUTED if case.differentiable and case.float_operands]
TWICE = [case for case in DIFFERENTIABLE if case.second_order]
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


def contracted(case: Case) -> tuple[list[Value], Value, list[Value]]:
    """The leaves, a cotangent and the gradients of a case with respect to its float operands."""
    leaves, value = case.leaves(), case.value()
    cotangent = input("cotangent", value.dtype, value.shape)
    return leaves, cotangent, gradients(value, [leaves[i] for i in case.float_operands], cotangent)


def cotangent_for(case: Case, arrays: list[Any]) -> Any:
    return np.random.default_rng(11).standard_normal(np.shape(case.truth(arrays)))


@rows(DIFFERENTIABLE)
def test_gradient(case: Case) -> None:
    leaves, _, found = contracted(case)
    arrays = case.arrays()
    cotangent = cotangent_for(case, arrays)
    computed = run(found, case.feeds(arrays) | {"cotangent": cotangent}, SIZES)
    for position, gradient, result in zip(case.float_operands, found, computed, strict=True):
        assert gradient.dtype == leaves[position].dtype
        slope = differences(case.truth_of, arrays, position)
        close(result, np.tensordot(cotangent, slope, cotangent.ndim), 1e-7)


@rows(TWICE)
def test_gradient_of_the_gradient(case: Case) -> None:
    leaves, cotangent, first = contracted(case)
    arrays = case.arrays()
    generator = np.random.default_rng(13)
    directions = [generator.standard_normal(arrays[i].shape) for i in case.float_operands]
    weighed = [g * input(f"d{i}", g.dtype, leaves[i].shape) for i, g in zip(case.float_operands, first, strict=True)]
    total = sum((w.sum() for w in weighed[1:]), weighed[0].sum())
    wrt = [*(leaves[i] for i in case.float_operands), cotangent]
    fixed = {f"d{i}": d for i, d in zip(case.float_operands, directions, strict=True)}
    arrays.append(cotangent_for(case, arrays))
    names = [f"x{i}" for i in range(len(arrays) - 1)] + ["cotangent"]
    contraction = program([total], SIZES)

    def numeric(*changed: Any) -> Any:
        return contraction(dict(zip(names, changed, strict=True)) | fixed)[0]

    computed = run(gradients(total, wrt), dict(zip(names, arrays, strict=True)) | fixed, SIZES)
    for position, result in zip([*case.float_operands, len(arrays) - 1], computed, strict=True):
        close(result, differences(numeric, arrays, position), 1e-6)


@rows([case for case in DIFFERENTIABLE if case.is_named])
def test_gradient_with_an_empty_batch(case: Case) -> None:
    if not case.empty:
        pytest.skip("undefined for an empty batch")
    leaves, cotangent, found = contracted(case)
    sizes = SIZES | {"batch": 0}
    arrays = case.arrays(sizes=sizes)
    feeds = case.feeds(arrays) | {"cotangent": np.ones(cotangent.type.bind(sizes).shape)}
    for position, result in zip(case.float_operands, run(found, feeds, sizes), strict=True):
        assert result.shape == leaves[position].type.bind(sizes).shape
        assert np.isfinite(result).all()


@rows(FUSED)
def test_fused_op_is_its_decomposition(case: Case) -> None:
    value = case.value()
    spelled = case.spelled()
    assert spelled.type == value.type
    arrays = case.arrays()
    close(case.evaluate(arrays), run([spelled], case.feeds(arrays), SIZES)[0], 1e-11)


@rows([case for case in FUSED if case.differentiable])
def test_fused_pullback_is_that_of_the_decomposition(case: Case) -> None:
    leaves, cotangent, found = contracted(case)
    spelled = case.spelled()
    wrt = [leaves[i] for i in case.float_operands]
    arrays = case.arrays()
    feeds = case.feeds(arrays) | {"cotangent": cotangent_for(case, arrays)}
    by_parts = run(gradients(spelled, wrt, cotangent), feeds, SIZES)
    for mine, theirs in zip(run(found, feeds, SIZES), by_parts, strict=True):
        close(mine, theirs, 1e-10)


@rows([case for case in COMPUTED if case.op.commutative])
def test_commutative_ops_commute(case: Case) -> None:
    left, right = case.arrays()
    np.testing.assert_array_equal(case.op.evaluate(left, right), case.op.evaluate(right, left))
