"""The types of Values: element type and shape, and how shapes meet."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lora_graph.ir import dims
from lora_graph.ir.dims import Dim, Shape

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True, repr=False)
class TensorType:
    """Element type and shape of one tensor, printed as ``float32[batch, 8]``."""

    dtype: np.dtype[Any]
    shape: Shape

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> Dim:
        return dims.product(self.shape)

    @property
    def is_static(self) -> bool:
        return all(isinstance(d, int) for d in self.shape)

    @property
    def is_float(self) -> bool:
        return self.dtype.kind == "f" or self.dtype.name == "bfloat16"

    def with_shape(self, shape: Sequence[Dim]) -> TensorType:
        new = tuple(shape)
        return self if new == self.shape else TensorType(self.dtype, new)

    def with_dtype(self, dtype: npt.DTypeLike) -> TensorType:
        return TensorType(np.dtype(dtype), self.shape)

    def bind(self, binding: Mapping[str, int]) -> TensorType:
        """The same type with every named dimension replaced by its size."""
        return self if self.is_static else self.with_shape(dims.sizes(self.shape, binding))

    def substitute(self, binding: Mapping[str, Dim]) -> TensorType:
        return TensorType(self.dtype, tuple(dims.substitute(d, binding) for d in self.shape))

    def __str__(self) -> str:
        return f"{self.dtype.name}[{', '.join(map(str, self.shape))}]"

    __repr__ = __str__


@dataclass(frozen=True, slots=True)
class TupleType:
    """The types of the results of an op that has several."""

    items: tuple[TensorType, ...]

    def __str__(self) -> str:
        return f"({'; '.join(map(str, self.items))})"


Type = TensorType | TupleType


def tensor(dtype: npt.DTypeLike, shape: Sequence[int | str | dims.SymbolicDim] = ()) -> TensorType:
    """The type ``dtype[shape]``; a str in ``shape`` is a named dimension or an expression of such."""
    return TensorType(np.dtype(dtype), dims.shape_of(shape))


def type_of(array: Array) -> TensorType:
    return TensorType(array.dtype, array.shape)


Assumption = tuple[Dim, Dim]
_assumptions: ContextVar[list[Assumption] | None] = ContextVar("assumptions", default=None)


@contextmanager
def assumptions() -> Iterator[list[Assumption]]:
    """Collects the pairs of symbolic dimensions that type inference takes to be equal without being able to show it.

    Whoever runs the graph checks them once the names have sizes.
    """
    collected: list[Assumption] = []
    token = _assumptions.set(collected)
    try:
        yield collected
    finally:
        _assumptions.reset(token)


def meet(left: Dim, right: Dim, what: str) -> Dim:
    """The common value of two dimensions that have to be equal; ValueError if they are known to differ."""
    if left == right:
        return left
    if isinstance(left - right, int):
        raise ValueError(f"{what}: dimension {left} does not equal {right}")
    collected = _assumptions.get()
    if collected is not None:
        collected.append((left, right))
    return left if isinstance(left, int) or not isinstance(right, int) else right


def broadcast(left: Shape, right: Shape, what: str) -> Shape:
    """NumPy's broadcasting of two shapes, where only a literal 1 stretches: a named dimension never does."""
    if left == right or not right:
        return left
    longer, shorter = (left, right) if len(left) >= len(right) else (right, left)
    padded = (1,) * (len(longer) - len(shorter)) + shorter
    try:
        return tuple(b if a == 1 else a if b == 1 else meet(a, b, what) for a, b in zip(longer, padded, strict=True))
    except ValueError:
        raise ValueError(f"{what}: shapes {show(left)} and {show(right)} do not broadcast") from None


def show(shape: Sequence[Dim]) -> str:
    return f"[{', '.join(map(str, shape))}]"


def normalize_axis(axis: int, rank: int, what: str) -> int:
    """``axis`` counted from the front; TypeError for a non-int, ValueError when out of range."""
    if isinstance(axis, bool) or not hasattr(axis, "__index__"):
        raise TypeError(f"{what}: axis must be an int, got {axis!r}")
    if not -rank <= axis < rank:
        raise ValueError(f"{what}: axis {axis} is out of range for {rank} dimensions")
    return int(axis % rank)
