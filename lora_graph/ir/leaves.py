"""Ops without operands: where numbers enter a graph. And the projection that takes one of several results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from lora_graph.ir.dims import Dim, SymbolicDim
from lora_graph.ir.op import Lowering, Op
from lora_graph.ir.types import Array, TensorType, TupleType, tensor, type_of
from lora_graph.ir.value import Value, apply

CONSTANT_LIMIT = 1024
"""Bytes that a Constant may hold; larger arrays are Parameters, so that no pass ever hashes or copies one."""


@dataclass(frozen=True, eq=False)
class Leaf(Op, abstract=True):
    """An op without operands, supplied by whoever runs the graph."""

    def pullback(self, cotangent: Value, result: Value, *operands: Value) -> tuple[Value | None, ...]:
        return ()


@dataclass(frozen=True, eq=False)
class Input(Leaf):
    """What is given anew on every run: data, targets, a dropout mask, a rank, a learning rate."""

    label: str
    type: TensorType

    def infer(self) -> TensorType:
        return self.type


@dataclass(frozen=True, eq=False)
class Parameter(Leaf):
    """An array of the state, by name. Graphs never own arrays: the state is a dict beside them."""

    label: str
    type: TensorType
    trainable: bool = True

    def infer(self) -> TensorType:
        return self.type


@dataclass(frozen=True, eq=False)
class Constant(Leaf):
    """A small array that is part of the program itself."""

    value: Array

    def __post_init__(self) -> None:
        if self.value.nbytes > CONSTANT_LIMIT:
            raise ValueError(
                f"a constant holds at most {CONSTANT_LIMIT} bytes, got {self.value.nbytes} ({type_of(self.value)}); "
                "declare it with add_parameter(name, array, trainable=False)"
            )
        if self.value.dtype.hasobject:
            raise TypeError(f"a constant must be numeric, got dtype {self.value.dtype}")
        own = np.array(self.value, order="C")
        own.flags.writeable = False
        object.__setattr__(self, "value", own)

    def infer(self) -> TensorType:
        return type_of(self.value)

    def evaluate(self, *operands: Array, out: Array | None = None) -> Array:
        return self.value

    def lower(self, to: Lowering, *operands: str) -> str:
        return to.constant(self.value)


@dataclass(frozen=True, eq=False)
class Dimension(Leaf):
    """The size of a symbolic dimension as an int64 scalar."""

    size: SymbolicDim

    def infer(self) -> TensorType:
        return tensor(np.int64)

    def evaluate(self, *operands: Array, out: Array | None = None) -> Array:
        """The size, once the names in it are bound."""
        return np.asarray(self.size, np.int64)

    def lower(self, to: Lowering, *operands: str) -> str:
        return to.dimension(self.size)


@dataclass(frozen=True, eq=False)
class Absent(Leaf):
    """An optional operand that is not given."""

    def infer(self) -> TensorType:
        return tensor(np.bool_, (0,))

    def evaluate(self, *operands: Array, out: Array | None = None) -> Array:
        return np.zeros(0, np.bool_)

    def lower(self, to: Lowering, *operands: str) -> str:
        return ""


@dataclass(frozen=True, eq=False)
class Project(Op):
    """Result number ``index`` of an op that has several."""

    index: int
    takes_results: ClassVar[bool] = True

    def infer(self, *operands: Any) -> TensorType:
        (results,) = operands
        if not isinstance(results, TupleType) or not 0 <= self.index < len(results.items):
            raise ValueError(f"cannot take result {self.index} of {results}")
        return results.items[self.index]

    def evaluate(self, *operands: Any, out: Array | None = None) -> Any:
        return operands[0][self.index]

    def lower(self, to: Lowering, *operands: str) -> str:
        return to.result(operands[0], self.index)


def input(label: str, dtype: npt.DTypeLike, shape: Sequence[int | str | SymbolicDim] = ()) -> Value:  # noqa: A001
    """The Input ``label``; a str in ``shape`` names a dimension."""
    return apply(Input(label, tensor(dtype, shape)))


def parameter(
    label: str, dtype: npt.DTypeLike, shape: Sequence[int | str | SymbolicDim] = (), trainable: bool = True
) -> Value:
    """The Parameter ``label`` of the state."""
    return apply(Parameter(label, tensor(dtype, shape), trainable))


def constant(value: Any, dtype: npt.DTypeLike | None = None) -> Value:
    """A small array (at most 1 KiB) as a Value."""
    return apply(Constant(np.asarray(value, dtype)))


def size_of(dimension: Dim, dtype: npt.DTypeLike = np.int64) -> Value:
    """A dimension as a scalar: a constant where it is an int, else known when the graph runs."""
    if isinstance(dimension, int):
        return constant(dimension, dtype)
    size: Value = apply(Dimension(dimension))
    return size.astype(dtype)


def absent() -> Value:
    return apply(Absent())


def project(value: Value, index: int) -> Value:
    """Result number ``index`` of an op that has several."""
    return apply(Project(index), value)
