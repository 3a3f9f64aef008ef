"""Partial evaluation: what integer tensors hold in terms of dimensions, known before anything runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from lora_graph.ir import dims
from lora_graph.ir.dims import Dim, Shape
from lora_graph.ir.leaves import Constant, Dimension, constant, size_of
from lora_graph.ir.types import Array
from lora_graph.ir.value import Value, topological
from lora_graph.ops.shape import unsqueeze
from lora_graph.ops.slice import concat

MAX_ELEMENTS = 256
"""Shapes are short: what is longer is data."""


class Contents:
    """``contents(value)`` is the array of dimensions that an integer Value holds, or None where that is not known.

    An array of dimensions is a NumPy array of Python objects, so that most ops evaluate on it as they stand.
    """

    def __init__(self) -> None:
        self._known: dict[Value, Array | None] = {}

    def __call__(self, value: Value) -> Array | None:
        for inner in topological([value], stop=self._known.__contains__):
            self._known[inner] = self._evaluate(inner)
        return self._known[value]

    def _evaluate(self, value: Value) -> Array | None:
        type_ = value.result_type
        if not _is_small_integer(type_):
            return None
        if isinstance(value.op, Constant):
            return value.op.value.astype(object)
        if isinstance(value.op, Dimension):
            return _array(value.op.size)
        operands = [self._known[operand] for operand in value.operands]
        rule = RULES.get(value.op.name)
        if rule is None or any(operand is None for operand in operands):
            return None
        found = rule(value, *operands)
        return None if found is None else _array(found)

    def dimensions(self, value: Value) -> Shape | None:
        """The dimensions that a Value of at most one axis holds."""
        found = self(value) if value.rank <= 1 else None
        return None if found is None else tuple(found.ravel())

    def simplified(self, value: Value) -> Value:
        """``value``, or where it holds known dimensions the plainest Value that does."""
        found = self(value) if value.rank <= 1 and value.dtype == np.int64 else None
        if found is None:
            return value
        if all(isinstance(size, int) for size in found.ravel()):
            return constant(found.astype(np.int64))
        return size_of(found.item()) if value.rank == 0 else vector(tuple(found))


def vector(shape: Shape) -> Value:
    """``shape`` as an int64 vector."""
    if all(isinstance(size, int) for size in shape):
        return constant(np.asarray(shape, np.int64))
    parts = [unsqueeze(size_of(size), 0) for size in shape]
    return parts[0] if len(parts) == 1 else concat(parts, 0)


def _is_small_integer(type_: Any) -> bool:
    """Whether a tensor may hold dimensions, or say which of them are equal."""
    if getattr(type_, "dtype", None) not in (np.int64, np.int32, np.bool_):
        return False
    return isinstance(type_.size, int) and type_.size <= MAX_ELEMENTS


def _array(content: Any) -> Array:
    return np.asarray(content, object)


def _as_it_stands(value: Value, *operands: Array) -> Any:
    return value.op.evaluate(*operands)


def _sliced(value: Value, *operands: Array) -> Any:
    bounds = (*value.op.attributes()["starts"], *value.op.attributes()["ends"])
    return value.op.evaluate(*operands) if all(isinstance(bound, int) for bound in bounds) else None


def _gathered(value: Value, *operands: Array) -> Any:
    data, indices = operands
    if not all(isinstance(index, int) for index in indices.ravel()):
        return None
    return value.op.evaluate(data, indices.astype(np.int64))


def _elementwise(function: Callable[[Dim, Dim], Dim]) -> Callable[..., Any]:
    ufunc = np.frompyfunc(function, 2, 1)

    def rule(value: Value, *operands: Array) -> Any:
        return ufunc(*operands)

    return rule


def _divided(value: Value, *operands: Array) -> Any:
    dividend, divisor = operands
    return None if 0 in divisor.ravel().tolist() else np.frompyfunc(dims.divide, 2, 1)(dividend, divisor)


def _remainder(value: Value, *operands: Array) -> Any:
    quotient = _divided(value, *operands)
    return None if quotient is None or value.op.attributes()["fmod"] else operands[0] - quotient * operands[1]


def _equal(value: Value, *operands: Array) -> Any:
    found = np.frompyfunc(_are_equal, 2, 1)(*operands)
    return None if None in np.ravel(found).tolist() else found


def _are_equal(left: Dim, right: Dim) -> bool | None:
    """Whether two dimensions are equal; None where that depends on the sizes of names."""
    if left == right:
        return True
    apart = isinstance(left - right, int) or dims.is_size(left - right - 1) or dims.is_size(right - left - 1)
    return False if apart else None


def _chosen(value: Value, *operands: Array) -> Any:
    condition, yes, no = operands
    return np.where(condition.astype(bool), yes, no)


RULES: dict[str, Callable[..., Any]] = {
    **dict.fromkeys(("Add", "Sub", "Mul", "Neg", "ReduceProd", "ReduceSum"), _as_it_stands),
    **dict.fromkeys(("Concat", "Flatten", "Squeeze", "Unsqueeze", "Reshape", "Transpose"), _as_it_stands),
    "Expand": _as_it_stands,
    "Equal": _equal,
    "Where": _chosen,
    "Slice": _sliced,
    "Gather": _gathered,
    "Div": _divided,
    "Mod": _remainder,
    "Min": _elementwise(dims.minimum),
    "Max": _elementwise(dims.maximum),
    "Cast": lambda value, operand: operand,
}
