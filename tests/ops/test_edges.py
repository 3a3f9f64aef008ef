"""What the drawn cases avoid: ties, kinks, zeros, NaN and data that does not fit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import lora_graph.ops as ops
from lora_graph.autodiff import gradients
from lora_graph.ir import OPS, Value, apply, input  # noqa: A004
from tests.reference import close, run

X = input("x", np.float64, (4,))


def slope(value: Value, at: list[float], of: Value = X, **others: Any) -> Any:
    return run(gradients(value.sum(), [of]), {"x": np.asarray(at, np.float64), **others})[0]


def test_equal_extrema_share_the_cotangent() -> None:
    tied = [1.0, 3.0, 3.0, 2.0]
    close(slope(X.max(), tied), np.asarray([0, 0.5, 0.5, 0]), 0)
    close(slope(-X.min(), [1.0, 1.0, 1.0, 2.0]), -np.asarray([1, 1, 1, 0]) / 3, 1e-15)
    y = input("y", np.float64, (4,))
    other = np.asarray([1.0, 0.0, 5.0, 2.0])
    for build in (ops.maximum, ops.minimum):
        value = build(X, y)
        total = slope(value, tied, y=other) + slope(value, tied, y, y=other)
        close(total, np.ones(4), 0)
    close(slope(ops.maximum(X, y), tied, y=other), np.asarray([0.5, 1, 0, 0.5]), 0)


def test_clip_gives_the_cotangent_to_x_at_and_between_its_bounds() -> None:
    low, high = input("low", np.float64), input("high", np.float64)
    value = apply(OPS["Clip"](), X, low, high)
    at = [-2.0, -1.0, 0.5, 3.0]
    bounds = {"low": np.float64(-1.0), "high": np.float64(1.0)}
    close(slope(value, at, **bounds), np.asarray([0, 1, 1, 0]), 0)
    close(slope(value, at, low, **bounds), np.asarray(1.0), 0)
    close(slope(value, at, high, **bounds), np.asarray(1.0), 0)


def test_kinks_have_the_documented_slope() -> None:
    zero = [0.0] * 4
    for value, expected in ((ops.relu(X), 0.0), (X.abs(), 0.0), (ops.leaky_relu(X, 0.1), 1.0)):
        close(slope(value, zero), np.full(4, expected), 0)


@pytest.mark.parametrize("at", [[2.0, 3.0, 4.0, 5.0], [0.0, 3.0, 4.0, 5.0], [0.0, 3.0, 0.0, 5.0], [0.0] * 4])
def test_product_has_its_derivative_with_zeros(at: list[float]) -> None:
    expected = [np.prod(np.delete(at, i)) for i in range(4)]
    close(slope(ops.reduce_prod(X), at), np.asarray(expected), 1e-12)


def test_power_at_zero_and_below() -> None:
    at = [0.0, -2.0, 1.0, 3.0]
    for exponent in (0.0, 1.0, 2.0, 3.0):
        expected = [exponent * v ** (exponent - 1) if exponent else 0.0 for v in at]
        close(slope(X**exponent, at), np.asarray(expected), 1e-12)
    second = gradients(gradients((X**1.0).sum(), [X])[0].sum(), [X])
    close(run(second, {"x": np.asarray(at)})[0], np.zeros(4), 0)
    exponent = input("e", np.float64)
    close(slope(X**exponent, [0.0, 0.0, 1.0, 1.0], exponent, e=np.float64(2.0)), np.asarray(0.0), 0)
    with np.errstate(invalid="ignore"):
        assert np.isnan(slope(X**exponent, at, exponent, e=np.float64(2.0)))


def test_nan_wins() -> None:
    row = np.asarray([1.0, np.nan, 2.0, 0.0])
    for value in (X.max(), X.min(), X.sum(), ops.relu(X), ops.maximum(X, 0.0), ops.sigmoid(X), ops.softmax(X)):
        (computed,) = run([value], {"x": row})
        assert np.isnan(computed).any()


def test_reductions_of_nothing() -> None:
    empty = input("none", np.float64, (0, 2))
    found = run(
        [empty.sum(axis=0), empty.max(axis=0), empty.min(axis=0), empty.mean(axis=0)], {"none": np.zeros((0, 2))}
    )
    for computed, expected in zip(found, (0.0, -np.inf, np.inf, np.nan), strict=True):
        np.testing.assert_array_equal(computed, np.full(2, expected))


def test_float16_sums_are_taken_in_float32() -> None:
    half = input("half", np.float16, (3000,))
    ones = np.full(3000, 0.1, np.float16)
    expected = np.float16(np.sum(ones.astype(np.float64)))
    assert run([half.sum()], {"half": ones})[0] == expected
    assert run([half.mean()], {"half": ones})[0] == np.float16(0.1)
    assert run([half @ half], {"half": ones})[0] == np.float16((ones.astype(np.float64) ** 2).sum())


def test_indices_out_of_range_are_an_error() -> None:
    n = input("n", np.int64, (1,))
    with pytest.raises(ValueError, match=r"indices must be in -4\.\.3: index 4 is out of bounds"):
        run([ops.gather(X, n)], {"x": np.zeros(4), "n": np.asarray([4])})
    scores = input("scores", np.float64, (1, 3))
    loss = apply(ops.SoftmaxCrossEntropyLoss(), scores, n)
    for label in (3, -1):
        with pytest.raises(ValueError, match=r"labels must be in 0\.\.2"):
            run([loss], {"scores": np.zeros((1, 3)), "n": np.asarray([label])})
