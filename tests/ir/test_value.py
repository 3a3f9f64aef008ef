"""Values read like NumPy arrays: the same expression on both gives the same numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from lora_graph.ir import Value, constant, dim, input, topological  # noqa: A004
from tests.reference import run

X = input("x", np.float64, ("batch", 3, 4))
ARRAY = np.random.default_rng(3).uniform(0.5, 2.0, (2, 3, 4))


@pytest.mark.parametrize(
    "expression",
    [
        lambda x: x + 1,
        lambda x: 1 + x,
        lambda x: 2.5 - x,
        lambda x: x - x * 3,
        lambda x: 1 / x,
        lambda x: x / 2,
        lambda x: x**2,
        lambda x: -x,
        lambda x: abs(-x),
        lambda x: 2**x,
        lambda x: np.arange(4.0) * x,
        lambda x: np.float64(2.0) - x,
        lambda x: np.ones(4) < x,
        lambda x: np.ones((2, 3)) @ x,
        lambda x: x @ np.ones((4, 2)),
        lambda x: x < 1.0,
        lambda x: x <= x,
        lambda x: x > 1.0,
        lambda x: x >= 1.0,
        lambda x: x + np.ones(4),
        lambda x: x * [1.0, 2.0, 3.0, 4.0],
        lambda x: x.sum(),
        lambda x: x.sum(axis=1),
        lambda x: x.mean(axis=(0, 2)),
        lambda x: x.max(axis=-1, keepdims=True),
        lambda x: x.min(axis=0),
        lambda x: x.sum(axis=()),
        lambda x: x.prod(axis=-1),
        lambda x: x.var(axis=(0, 2), keepdims=True),
        lambda x: x.var(),
        lambda x: x.std(axis=1),
        lambda x: x.swapaxes(0, -1),
        lambda x: x[:, :1, None].squeeze(),
        lambda x: x[:, :1, None].squeeze(1),
        lambda x: x[:, :1, None].squeeze((1, 2)),
        lambda x: x.squeeze(),
        lambda x: x.clip(0.8, 1.5),
        lambda x: x.argmax(axis=-1),
        lambda x: x.argmax(axis=1, keepdims=True),
        lambda x: (x > 0.8) & (x < 1.5),
        lambda x: (x < 0.8) | (x > 1.5),
        lambda x: (x > 0.8) ^ (x < 1.5),
        lambda x: ~(x > 1.0),
        lambda x: (x * 10.0).astype(np.int64) % 3,
        lambda x: x.T,
        lambda x: x.transpose(1, 0, 2),
        lambda x: x.transpose((2, 0, 1)),
        lambda x: x.transpose(-1, 0, 1),
        lambda x: x.reshape(-1, 4),
        lambda x: x.reshape((-1,)),
        lambda x: x.astype(np.float32),
        lambda x: x[0],
        lambda x: x[-1],
        lambda x: x[:, 1],
        lambda x: x[:, -1],
        lambda x: x[..., 2],
        lambda x: x[:, 1:3],
        lambda x: x[:, :, ::2],
        lambda x: x[:, ::-1],
        lambda x: x[::-1],
        lambda x: x[:, -9::-1],
        lambda x: x[:, 9:0:-2],
        lambda x: x[1:, 0, -2:],
        lambda x: x[None, :, 1, None],
        lambda x: x[:, None, ..., -1],
        lambda x: x[:5],
        lambda x: x[...],
        lambda x: x[0, 1, 2],
    ],
)
def test_numpy_reads_the_same(expression: Callable[[Any], Any]) -> None:
    value = expression(X)
    expected = expression(ARRAY)
    (computed,) = run([value], {"x": ARRAY}, {"batch": 2})
    np.testing.assert_allclose(computed, expected, rtol=1e-12)
    assert computed.dtype == expected.dtype == value.dtype
    assert value.type.bind({"batch": 2}).shape == expected.shape


def test_methods_of_values_alone() -> None:
    for name in ("exp", "log", "sqrt", "tanh", "abs"):
        (computed,) = run([getattr(X, name)()], {"x": ARRAY}, {"batch": 2})
        np.testing.assert_allclose(computed, getattr(np, name)(ARRAY), rtol=1e-12)
    (same,) = run([X.equal(X)], {"x": ARRAY}, {"batch": 2})
    assert same.all()


def test_a_dimension_is_a_number() -> None:
    (computed,) = run([X.sum() / dim("batch")], {"x": ARRAY}, {"batch": 2})
    np.testing.assert_allclose(computed, ARRAY.sum() / 2)


@pytest.mark.parametrize(
    ("misuse", "error", "words"),
    [
        (lambda x: bool(x), TypeError, "no truth value"),
        (lambda x: [*x], TypeError, "cannot be iterated"),
        (lambda x: 1.0 in x, TypeError, "iterable"),
        (lambda x: x["name"], TypeError, "indexed with ints, slices"),
        (lambda x: x[True], TypeError, "indexed with ints, slices"),
        (lambda x: x[x], TypeError, "indexed with ints, slices"),
        (lambda x: x[:, 3], ValueError, "index 3 is out of range for axis 1"),
        (lambda x: x[0, 0, 0, 0], ValueError, "too many indices"),
        (lambda x: x[:, ::0], ValueError, "step cannot be 0"),
        (lambda x: x + "one", TypeError, "expected a Value, a number or an array"),
        (lambda x: x + None, TypeError, "expected a Value, a number or an array"),
        (lambda x: x + np.ones(4, np.float32), TypeError, "must share one dtype"),
        (lambda x: constant(1, np.int64) + 0.5, TypeError, "does not fit a tensor of int64"),
        (lambda x: x.reshape(-1, -1), ValueError, "only one dimension can be -1"),
        (lambda x: x.reshape(-1, 5), ValueError, "cannot infer -1"),
        (lambda x: x.transpose(0, 1), ValueError, "perm must order the axes"),
        (lambda x: x.transpose(0, 1, 3), ValueError, "axis 3 is out of range"),
        (lambda x: x.sum(axis=3), ValueError, "axis 3 is out of range"),
        (lambda x: x.sum(axis=(0, -3)), ValueError, "repeat an axis"),
        (lambda x: x.sum(axis=1.0), TypeError, "axis must be an int"),
    ],
)
def test_misuse_is_told_at_its_line(misuse: Callable[[Value], Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        misuse(X)


def test_topological_order_is_that_of_a_walk() -> None:
    a, b = input("a", np.float32), input("b", np.float32)
    value = (a * b) + (b - a)
    order = topological([value])
    assert order == [a, b, a * b, b - a, value]
    assert topological([value], stop={a * b}.__contains__) == [b, a, b - a, value]


def test_numpy_functions_are_refused_with_a_way_out() -> None:
    with pytest.raises(TypeError, match=r"numpy\.mean computes at once.*use lg\.ops, or a method"):
        np.mean(X)
    with pytest.raises(TypeError, match="Value"):
        np.maximum(X, 0.0)


def test_ndim_and_size_are_those_of_the_type() -> None:
    assert X.ndim == 3
    assert X.size == dim("12*batch")
    assert constant(np.ones((2, 3))).size == 6
