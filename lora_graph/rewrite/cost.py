"""What an expression costs, from types alone, never from the actual batch: a named dimension counts as 64."""

from __future__ import annotations

from lora_graph.ir import dims
from lora_graph.ir.dims import Dim
from lora_graph.ir.types import TensorType
from lora_graph.ir.value import Value
from lora_graph.ops.activation import Erf, Sigmoid, Tanh
from lora_graph.ops.reduce import LogSoftmax
from lora_graph.ops.unary import Exp, Log

NAMED_DIMENSION = 64
COSTLY = Erf, Exp, Log, LogSoftmax, Sigmoid, Tanh
"""Ops that take several times as long as the arithmetic around them."""


class _Nominal(dict[str, int]):
    def __missing__(self, name: str) -> int:
        return NAMED_DIMENSION


_NOMINAL = _Nominal()


def nominal(dimension: Dim) -> int:
    return dims.evaluate(dimension, _NOMINAL)


def size(kind: TensorType) -> int:
    """Elements of a tensor."""
    return nominal(kind.size)


def flops(value: Value) -> int:
    """Floating-point operations of one application."""
    return nominal(value.flops)
