"""``lg.ops`` has every op as a function of Values."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import lora_graph as lg
from lora_graph.ir.leaves import Leaf
from lora_graph.ir.op import OPS
from tests.reference import run

OTHERWISE = {
    "AddMatMul": "add_matmul",
    "And": "logical_and",
    "ArgMax": "argmax",
    "CumSum": "cumsum",
    "GRU": "gru",
    "IsNaN": "is_nan",
    "LSTM": "lstm",
    "MatMul": "matmul",
    "Max": "maximum",
    "Min": "minimum",
    "Not": "logical_not",
    "Or": "logical_or",
    "RMSNormalization": "rms_normalization",
    "RNN": "rnn",
    "Xor": "logical_xor",
}
"""Ops whose functions have the names they have in NumPy."""

PUBLIC = [name for name, op in OPS.items() if not issubclass(op, Leaf) and op.__module__.startswith("lora_graph.ops")]


@pytest.mark.parametrize("name", PUBLIC)
def test_every_op_is_a_function(name: str) -> None:
    spelled = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()
    function = getattr(lg.ops, OTHERWISE.get(name, spelled))
    assert callable(function)
    assert OTHERWISE.get(name, spelled) in lg.ops.__all__


X = np.random.default_rng(0).normal(size=(3, 4))
I = np.array([[0, 2], [1, 0], [2, 1]])  # noqa: E741
PUT = np.ones((3, 2))
ADDED = np.array([[0, 0, 1, 0], [1, 0, 0, 0], [0, 1, 0, 0]])


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (lambda x: lg.ops.gemm(x, x, transB=1, alpha=2), 2 * X @ X.T),
        (lambda x: lg.ops.gemm(x, x, x[0], transA=True, beta=3), X.T @ X + 3 * X[0]),
        (lambda x: lg.ops.gather_elements(x, I, axis=1), np.take_along_axis(X, I, 1)),
        (lambda x: lg.ops.gather_nd(x, I), X[I[:, 0], I[:, 1]]),
        (lambda x: lg.ops.scatter_elements(x * 0.0, I, PUT, axis=1), np.eye(4)[I].sum(1)),
        (lambda x: lg.ops.scatter_nd(x, I, PUT[:, 0], "add"), X + ADDED),
        (lambda x: lg.ops.eye_like(x, np.float64), np.eye(3, 4)),
        (lambda x: lg.ops.slice(x, (1, 3), (3, 0), (0, 1), (1, -2)), X[1:3, 3:0:-2]),
        (lambda x: lg.ops.slice(x, (1,), (3,), (1,)), X[:, 1:3]),
        (lambda x: lg.ops.swish(x, 2), X / (1 + np.exp(-2 * X))),
        (
            lambda x: lg.ops.softmax_cross_entropy_loss(x, I[:, 0], "sum"),
            (np.log(np.exp(X).sum(1)) - X[np.arange(3), I[:, 0]]).sum(),
        ),
    ],
)
def test_functions_with_attributes(build: Callable[[Any], Any], expected: Any) -> None:
    x = lg.ops.input("x", np.float64, (3, 4))
    (found,) = run([build(x)], {"x": X})
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)
