"""Rows of reductions and softmax."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import scipy.special

from tests.op_cases import Case, case, chosen, distinct, i, nonzero, x
from tests.op_rows.common import kept, left, op


def reduction() -> Iterator[Case]:
    variants: list[tuple[str, tuple[int, ...] | None, int]] = [
        ("batch 3", None, 0),
        ("batch 3", None, 1),
        ("batch 3", (0,), 0),
        ("batch 3", (0,), 1),
        ("batch 3", (-1,), 0),
        ("batch 3", (1,), 1),
        ("batch 2 3", (0, 2), 0),
        ("2 batch 3", (-1, 0), 1),
        ("batch 2 3", (1,), 0),
        ("4", None, 0),
        ("", None, 0),
        ("1 3", (0,), 0),
    ]
    formulas: dict[str, Any] = {
        "ReduceSum": lambda a, axes, keep: np.einsum(a, [0, 1, 2][: a.ndim], kept(a, axes)).reshape(
            left(a, axes, keep)
        ),
        "ReduceMean": lambda a, axes, keep: (
            np.sum(a, axes, keepdims=keep) / (a.size / max(1, np.prod(left(a, axes, 0))))
        ),
        "ReduceMax": lambda a, axes, keep: _ordered(a, axes, keep, -1),
        "ReduceMin": lambda a, axes, keep: _ordered(a, axes, keep, 0),
        "ReduceProd": lambda a, axes, keep: np.multiply.reduce(a, axes, keepdims=keep),
    }
    for name, formula in formulas.items():
        empty = name in ("ReduceSum", "ReduceProd")
        draw = nonzero if name == "ReduceProd" else distinct
        for shape, axes, keep in variants:

            def expected(a: Any, formula: Any = formula, axes: Any = axes, keep: int = keep) -> Any:
                every = tuple(range(a.ndim)) if axes is None else tuple(axis % a.ndim for axis in axes)
                return formula(a, every, bool(keep))

            yield case(op(name, axes, keep), x(shape, draw), expected=expected, empty=empty)
    for name in ("ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd"):
        yield case(op(name, (0,), 0), i("3 batch", -4, 5), expected=lambda a, name=name: _integers(name)(a, axis=0))
    yield from softmaxes()


def _integers(name: str) -> Any:
    return {"ReduceSum": np.sum, "ReduceMax": np.max, "ReduceMin": np.min, "ReduceProd": np.prod}[name]


def _ordered(a: Any, axes: tuple[int, ...], keep: bool, which: int) -> Any:
    rows = a.transpose([*kept(a, axes), *axes]).reshape(*left(a, axes, 0), -1)
    return np.sort(rows, -1)[..., which].reshape(left(a, axes, keep))


def softmaxes() -> Iterator[Case]:
    for axis, shape in ((-1, "batch 3"), (0, "3 batch"), (1, "batch 3 2"), (0, "4")):
        yield case(op("Softmax", axis), x(shape), expected=lambda a, axis=axis: scipy.special.softmax(a, axis))
        yield case(op("LogSoftmax", axis), x(shape), expected=lambda a, axis=axis: scipy.special.log_softmax(a, axis))
        yield case(op("SafeSoftmax", axis), x(shape), expected=lambda a, axis=axis: scipy.special.softmax(a, axis))
    far = x("2 3", chosen(1e4, 0.0, -1e4, 3e4, 3e4, 1.0))
    yield case(op("Softmax"), far, expected=lambda a: scipy.special.softmax(a, -1), differentiable=False)
    yield case(op("LogSoftmax"), far, expected=lambda a: scipy.special.log_softmax(a, -1), differentiable=False)
    for axis, keep in ((0, 0), (1, 1), (-1, 0)):
        yield case(
            op("ArgMax", axis, keep),
            x("2 batch 3", distinct),
            expected=lambda a, axis=axis, keep=keep: np.argsort(a, axis).take([-1] if keep else -1, axis),
            differentiable=False,
            empty=False,
        )
