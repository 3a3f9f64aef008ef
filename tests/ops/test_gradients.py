"""The derivatives of every row of op_cases.py, first and second, against differences."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lora_graph.autodiff import gradients
from lora_graph.ir import Value, input  # noqa: A004
from lora_graph.ops.fused import Fused
from tests.op_cases import CASES, SIZES, Case
from tests.reference import close, differences, program, run

COMPUTED = [case for case in CASES if case.expected is not None]
DIFFERENTIABLE = [case for case in COMPUTED if case.differentiable and case.float_operands]
TWICE = [case for case in DIFFERENTIABLE if case.second_order]
FUSED = [case for case in COMPUTED if isinstance(case.op, Fused)]

rows = lambda cases: pytest.mark.parametrize("case", cases, ids=str)  # noqa: E731


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
