"""The verifier finds each broken rule and names it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lora_graph.ir import (
    Graph,
    Value,
    VerificationError,
    dim,
    input,  # noqa: A004
    parameter,
    size_of,
    tensor,
    verify,
)

X = input("x", np.float32, ("batch", 3))


def test_a_good_graph_passes() -> None:
    w = parameter("w", np.float32, (3, 2))
    verify(Graph((X,), {"y": (X @ w).mean(axis=0) * size_of(dim("batch"), np.float32)}))
    verify(Graph((X,), {"x": X}))


@pytest.mark.parametrize(
    ("inputs", "outputs", "words"),
    [
        ((X,), {}, "has no output"),
        ((X, X + 1.0), {"y": X}, "is no Input"),
        ((X, input("x", np.float32, (2,))), {"y": X}, "two inputs are called 'x'"),
        ((), {"y": X.tanh()}, "input 'x' is used but missing"),
        ((X,), {"y": X * size_of(dim("time"), np.float32)}, "dimension 'time' is not that of any input"),
        (
            (X,),
            {"a": X @ parameter("w", np.float32, (3, 2)), "b": X @ parameter("w", np.float32, (3, 4))},
            "parameter 'w' is declared in two ways",
        ),
    ],
)
def test_each_rule_broken_once(inputs: Any, outputs: dict[str, Value], words: str) -> None:
    with pytest.raises(VerificationError, match=words):
        verify(Graph(inputs, outputs))


def test_a_value_of_the_wrong_type() -> None:
    """Values cannot be made wrong, so this one is damaged on purpose."""
    value = input("damaged", np.float32, (3,)).tanh()
    object.__setattr__(value, "_type", tensor(np.float32, (4,)))
    try:
        with pytest.raises(VerificationError, match=r"should have the type float32\[3\]"):
            verify(Graph(value.operands, {"y": value}))
    finally:
        object.__setattr__(value, "_type", tensor(np.float32, (3,)))
