"""Truth that does not come from lora_graph: a plain evaluator that runs a graph node by node, and differences."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from lora_graph.ir import Dimension, Input, Parameter, Project, Value, dims, replace, topological


def program(
    outputs: Sequence[Value], binding: Mapping[str, int] | None = None
) -> Callable[[Mapping[str, Any]], list[Any]]:
    """A function from arrays by leaf name to the arrays of ``outputs``, with named dimensions bound.

    What depends on no array that is another one than in the last call is not computed again.
    """
    bound = replace(outputs, {}, dict(binding or {}))
    order = topological(bound)
    known: dict[Value, Any] = {}
    last: dict[str, Any] = {}

    def run(feeds: Mapping[str, Any]) -> list[Any]:
        new: set[Value] = set()
        for value in order:
            op, seen = value.op, value in known
            is_leaf = isinstance(op, Input | Parameter)
            if seen and (last[op.label] is feeds[op.label] if is_leaf else new.isdisjoint(value.operands)):
                continue
            known[value] = _evaluate(value, known, feeds)
            new.add(value)
        last.update(feeds)
        return [known[output] for output in bound]

    return run


def run(outputs: Sequence[Value], feeds: Mapping[str, Any], binding: Mapping[str, int] | None = None) -> list[Any]:
    return program(outputs, binding)(feeds)


def _evaluate(value: Value, known: Mapping[Value, Any], feeds: Mapping[str, Any]) -> Any:
    op = value.op
    if isinstance(op, Input | Parameter):
        array = np.asarray(feeds[op.label])
        assert (array.dtype, array.shape) == (op.type.dtype, op.type.shape), f"{op.label}: {array.dtype}{array.shape}"
        return array
    if isinstance(op, Dimension):
        return np.asarray(dims.evaluate(op.size, {}), np.int64)
    operands = [known[operand] for operand in value.operands]
    return operands[0][op.index] if isinstance(op, Project) else op.evaluate(*operands)


def differences(function: Callable[..., Any], operands: Sequence[Any], at: int, step: float = 1e-5) -> np.ndarray:
    """d function / d operands[at] by central differences, as ``[*result, *operand]`` in float64.

    The error, about step² from what they leave out and ε / step from rounding, is near 1e-10 for numbers around 1.
    """
    operand = operands[at]
    columns = []
    for index in np.ndindex(operand.shape):

        def moved(amount: float, index: tuple[int, ...] = index) -> np.ndarray:
            changed = operand.copy()
            changed[index] += amount
            return np.asarray(function(*operands[:at], changed, *operands[at + 1 :]), np.float64)

        columns.append((moved(step) - moved(-step)) / (2 * step))
    if not columns:
        return np.zeros((*np.shape(function(*operands)), *operand.shape))
    found = np.stack(columns, -1)
    return found.reshape((*found.shape[:-1], *operand.shape))


def close(actual: Any, expected: Any, tolerance: float) -> None:
    """‖actual - expected‖∞ ≤ tolerance · max(1, ‖expected‖∞); infinities and NaNs have to be at the same places."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape, f"shape {actual.shape}, expected {expected.shape}"
    finite = np.abs(expected[np.isfinite(expected)].astype(np.float64)) if expected.dtype.kind == "f" else expected
    scale = max(1.0, float(finite.max(initial=0)))
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * scale)
