"""Rows of loops over time. ``sequence_lens`` is at least 1: ONNX Runtime leaves open what comes out of nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from lora_graph import ops
from lora_graph.ir import Graph, Op
from lora_graph.ir import input as leaf
from tests import recurrent_reference
from tests.op_cases import Case, Operand, case, i, x
from tests.op_rows.common import op


def recurrent() -> Iterator[Case]:
    yield from loops()
    yield from cells()


def loops() -> Iterator[Case]:
    """h' = tanh(h w + x) + h ⊙ b, of which every step also gives the square."""
    for reverse in (0, 1):

        def loop(floats: str, reverse: int = reverse) -> Op:
            shapes = {"h": ("batch", 3), "x": ("batch", 3), "w": (3, 3), "b": (3,)}
            h, xt, w, b = leaves = [leaf(name, floats, shape) for name, shape in shapes.items()]
            new = ops.tanh(h @ w + xt) + h * b
            return op("Scan", Graph(tuple(leaves), {"h": new, "y": new * new}), 1, 1, reverse)

        for result in (0, 1):

            def walked(h: Any, xs: Any, w: Any, b: Any, reverse: int = reverse, result: int = result) -> Any:
                squares = np.zeros_like(xs)
                for t in range(len(xs))[:: -1 if reverse else 1]:
                    h = np.tanh(h @ w + xs[t]) + h * b
                    squares[t] = h * h
                return (h, squares)[result]

            operands = x("batch 3"), x("time batch 3"), x("3 3"), x("3")
            flags = {"result": result, "typed": loop, "readable": False}
            yield case(loop("float64"), *operands, expected=walked, **flags)


def cells() -> Iterator[Case]:
    for kind, k, extra in (("LSTM", 4, 3), ("GRU", 3, 1), ("RNN", 1, 1)):
        for direction, count, flags in (
            ("forward", 1, {}),
            ("reverse", 1, {"linear_before_reset": 1} if kind == "GRU" else {}),
            ("bidirectional", 2, {}),
        ):
            weights = [x(f"{count} {2 * k} 3"), x(f"{count} {2 * k} 2"), x(f"{count} {4 * k}")]
            lengths = [i("batch", 1, 4, "int32")]
            states: list[Operand] = [x(f"{count} batch 2")] * (2 if kind == "LSTM" else 1)
            peepholes = [x(f"{count} 6")] * (kind == "LSTM")
            for result, given in enumerate((weights[:2], weights, [*weights, *lengths, *states, *peepholes])):
                index = min(result, extra - 1)

                def formula(
                    *arrays: Any, kind: str = kind, direction: str = direction, flags: Any = flags, index: int = index
                ) -> Any:
                    return recurrent_reference.recurrent(kind, *arrays, direction=direction, **flags)[index]

                yield case(
                    op(kind, 2, direction, **flags),
                    x("time batch 3"),
                    *given,
                    expected=formula,
                    result=index,
                    second_order=direction == "forward",  # the others are loops too, which have rows of their own
                    float16=False,
                    onnx64=False,
                )
