"""Ops that only say in what order and shape elements are seen: transposing, reshaping, expanding, axes of size 1.

Where ONNX takes a shape, bounds or axes as a tensor, the attribute here is a tuple of dimensions, named ones included;
lowering writes the tensor, computed from Shape nodes where a name occurs in it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from lora_graph.ir import dims
from lora_graph.ir.dims import Shape, SymbolicDim
from lora_graph.ir.leaves import constant
from lora_graph.ir.op import Lowering, NodeView, Op
from lora_graph.ir.types import TensorType, broadcast, meet, normalize_axis, show
from lora_graph.ir.value import Value, apply
from lora_graph.ops.base import Cotangents, Varying, unbroadcast
from lora_graph.ops.fused import Fused


@dataclass(frozen=True, eq=False)
class Transpose(Op):
    """y[i_perm] = x[i]: the axes in the order ``perm``."""

    perm: tuple[int, ...]
    view: ClassVar[bool] = True

    def infer(self, *operands: TensorType) -> TensorType:
        (x,) = operands
        if sorted(self.perm) != list(range(x.rank)):
            raise ValueError(f"Transpose: perm must order the axes 0..{x.rank - 1} of {x}, got {self.perm}")
        return x.with_shape([x.shape[axis] for axis in self.perm])

    def evaluate(self, *operands: Any, out: Any = None) -> Any:
        return operands[0].transpose(self.perm)

    def pullback(self, cotangent: Value, result: Value, *operands: Value) -> Cotangents:
        return (cotangent.transpose(inverse(self.perm)),)

    def is_linear(self, varying: Varying, operands: tuple[TensorType, ...], lead: int) -> bool:
        return self.perm[:lead] == tuple(range(lead))

    @classmethod
    def read(cls, node: NodeView) -> Value:
        (x,) = node.operands
        assert x is not None
        return x.transpose(tuple(node.attributes.get("perm") or reversed(range(x.rank))))


@dataclass(frozen=True, eq=False)
class Reshape(Op):
    """The same elements in row-major order as ``shape``."""

    shape: Shape
    view: ClassVar[bool] = True

    @classmethod
    def to(cls, x: Value, shape: Sequence[int | str | SymbolicDim]) -> Value:
        """``x`` as ``shape``, where one -1 is inferred."""
        wanted = [d if d == -1 else dims.dim(d) for d in shape]
        if wanted.count(-1) > 1:
            raise ValueError(f"Reshape: only one dimension can be -1, got {show(wanted)}")
        if -1 in wanted:
            rest = dims.product([d for d in wanted if d != -1])
            inferred = dims.exact_quotient(x.type.size, rest) if rest != 0 else None
            if inferred is None and not isinstance(rest, int):
                # type inference notes that the division has to be exact once the sizes are known
                inferred = dims.divide(x.type.size, rest)
            if inferred is None:
                raise ValueError(f"Reshape: cannot infer -1 in {show(wanted)} for {x.type}")
            wanted[wanted.index(-1)] = inferred
        return x if tuple(wanted) == x.shape else apply(cls(tuple(wanted)), x)

    def infer(self, *operands: TensorType) -> TensorType:
        (x,) = operands
        try:
            meet(x.size, dims.product(self.shape), self.name)
        except ValueError:
            raise ValueError(f"Reshape: {x} has {x.size} elements, which {show(self.shape)} has not") from None
        return x.with_shape(self.shape)

    def evaluate(self, *operands: Any, out: Any = None) -> Any:
        return operands[0].reshape(self.shape)

    def pullback(self, cotangent: Value, result: Value, *operands: Value) -> Cotangents:
        return (cotangent.reshape(operands[0].shape),)

    def is_linear(self, varying: Varying, operands: tuple[TensorType, ...], lead: int) -> bool:
        return self.shape[:lead] == operands[0].shape[:lead]

    def with_lead(self, lead: Shape) -> Op:
        return Reshape(lead + self.shape[len(lead) :])

    def lower(self, to: Lowering, *operands: str) -> str:
        # a 0 that is written, or that two or more named dimensions may turn out to be, is a size and not "as before"
        exact = 0 in self.shape or sum(not isinstance(d, int) for d in self.shape) > 1
        return to.node("Reshape", [*operands, to.shape(self.shape, may_infer=True)], {"allowzero": 1} if exact else {})

    @classmethod
    def read(cls, node: NodeView) -> Value:
        x, wanted = node.operands[0], node.static_shape(1)
        assert x is not None
        if wanted is None:
            raise ValueError("Reshape: the shape has to be known or computed from dimensions")
        if not node.attributes.get("allowzero"):
            wanted = tuple(x.shape[i] if d == 0 else d for i, d in enumerate(wanted))
        return cls.to(x, wanted) if -1 in wanted else apply(cls(wanted), x)


@dataclass(frozen=True, eq=False)
class Expand(Op):
    """x broadcast to ``shape``."""

    shape: Shape
    view: ClassVar[bool] = True

    def infer(self, *operands: TensorType) -> TensorType:
        (x,) = operands
        return x.with_shape(broadcast(x.shape, self.shape, self.name))

    def evaluate(self, *operands: Any, out: Any = None) -> Any:
        return np.broadcast_to(operands[0], np.broadcast_shapes(operands[0].shape, self.shape))  # type: ignore[arg-type]

    def pullback(self, cotangent: Value, result: Value, *operands: Value) -> Cotangents:
        return (unbroadcast(cotangent, operands[0].shape),)

    def is_linear(self, varying: Varying, operands: tuple[TensorType, ...], lead: int) -> bool:
        return len(self.shape) == operands[0].rank and self.shape[:lead] == operands[0].shape[:lead]

    def with_lead(self, lead: Shape) -> Op:
        return Expand(lead + self.shape[len(lead) :])

    def lower(self, to: Lowering, *operands: str) -> str:
        return to.node("Expand", [*operands, to.shape(self.shape)])

    @classmethod
    def read(cls, node: NodeView) -> Value:
        x, wanted = node.operands[0], node.static_shape(1)
        if x is None or wanted is None:
            raise ValueError("Expand: the shape has to be known or computed from dimensions")
        return apply(cls(wanted), x)


@dataclass(frozen=True, eq=False)
class Squeeze(Op):
    """x without its axes ``axes``, each of size 1."""

    axes: tuple[int, ...]
    view: ClassVar[bool] = True

    def infer(self, *operands: TensorType) -> TensorType:
        (x,) = operands
        for axis in self.axes:
            meet(x.shape[normalize_axis(axis, x.rank, "Squeeze")], 1, f"Squeeze: axis {axis} of {x}")
        gone = {axis % x.rank for axis in self.axes}
        if len(gone) != len(self.axes):
            raise ValueError(f"Squeeze: axes {self.axes} repeat an axis of {x}")
        return x.with_shape([d for i, d in enumerate(x.shape) if i not in gone])

    def evaluate(self, *operands: Any, out: Any = None) -> Any:
        return operands[0].squeeze(self.axes)

    def pullback(self, cotangent: Value, result: Value, *operands: Value) -> Cotangents:
        return (unsqueeze(cotangent, [axis % operands[0].rank for axis in self.axes]),)

    def is_linear(self, varying: Varying, operands: tuple[TensorType, ...], lead: int) -> bool:
        return all(axis % operands[0].rank >= lead for axis in self.axes)

    def lower(self, to: Lowering, *operands: str) -> str:
        return to.node("Squeeze", [*operands, to.constant(self.axes, np.int64)])

    @classmethod
    def read(cls, node: NodeView) -> Value:
        x, axes = node.operands[0], axes_of(node)
        assert x is not None
        return squeeze(x, [i for i, d in enumerate(x.shape) if d == 1] if axes is None else axes)


@dataclass(frozen=True, eq=False)
class Unsqueeze(Op):
    """x with new axes of size 1 where ``axes`` says, counted in the result."""

    axes: tuple[int, ...]
    view: ClassVar[bool] = True

    def infer(self, *operands: TensorType) -> TensorType:
        (x,) = operands
        rank = x.rank + len(self.axes)
        new = {normalize_axis(axis, rank, "Unsqueeze") for axis in self.axes}
        if len(new) != len(self.axes):
            raise ValueError(f"Unsqueeze: axes {self.axes} repeat an axis")
        old = iter(x.shape)
        return x.with_shape([1 if i in new else next(old) for i in range(rank)])

    def evaluate(self, *operands: Any, out: Any = None) -> Any:
        return np.expand_dims(operands[0], self.axes)

    def pullback(self, cotangent: Value, result: Value, *operands: Value) -> Cotangents:
        return (squeeze(cotangent, self.axes),)

    def is_linear(self, varying: Varying, operands: tuple[TensorType, ...], lead: int) -> bool:
        return all(axis % (operands[0].rank + len(self.axes)) >= lead for axis in self.axes)

    def lower(self, to: Lowering, *operands: str) -> str:
        return to.node("Unsqueeze", [*operands, to.constant(self.axes, np.int64)])

    @classmethod
    def read(cls, node: NodeView) -> Value:
        x, axes = node.operands[0], axes_of(node)
        assert x is not None
        return unsqueeze(x, axes or ())


@dataclass(frozen=True, eq=False)
class Flatten(Fused):
    """x as a matrix: the axes before ``axis`` are its rows, the others its columns (negative ``axis``: opset 11)."""

    axis: int = 1
    view: ClassVar[bool] = True

    def decompose(self, *operands: Any) -> Any:
        (x,) = operands
        if not -x.rank <= self.axis <= x.rank:
            raise ValueError(f"Flatten: axis {self.axis} is out of range for {x.type}")
        at = self.axis + x.rank if self.axis < 0 else self.axis
        return x.reshape(dims.product(x.shape[:at]), dims.product(x.shape[at:]))

    def evaluate(self, *operands: Any, out: Any = None) -> Any:
        (x,) = operands
        at = self.axis + x.ndim if self.axis < 0 else self.axis
        return x.reshape(math.prod(x.shape[:at]), math.prod(x.shape[at:]))

    def is_linear(self, varying: Varying, operands: tuple[TensorType, ...], lead: int) -> bool:
        return lead == 0 or (lead == 1 and self.axis in (1, 1 - operands[0].rank))


def transpose(x: Value, perm: Sequence[int] | None = None) -> Value:
    """``x`` with its axes in the order ``perm``, reversed by default."""
    return x.transpose(perm) if perm is not None else x.T


def swap_last(x: Value) -> Value:
    """``x`` with its last two axes exchanged."""
    return x.transpose((*range(x.rank - 2), x.rank - 1, x.rank - 2))


def reshape(x: Value, shape: Sequence[int | str | SymbolicDim]) -> Value:
    """Row-major reshape; one ``-1`` is inferred."""
    return Reshape.to(x, shape)


def flatten(x: Value, axis: int = 1) -> Value:
    """``x`` as a matrix, with the axes before ``axis`` as its rows."""
    return apply(Flatten(axis), x)


def expand(x: Value, shape: Sequence[int | str | SymbolicDim]) -> Value:
    """``x`` broadcast to ``shape``."""
    wanted = dims.shape_of(shape)
    return x if x.shape == wanted else apply(Expand(wanted), x)


def zeros_like(x: Value) -> Value:
    """Zeros in the shape and dtype of ``x``."""
    return expand(constant(0, x.dtype), x.shape)


def squeeze(x: Value, axes: int | Sequence[int]) -> Value:
    """``x`` without these axes, which must have length 1."""
    wanted = (axes,) if isinstance(axes, int) else tuple(axes)
    return apply(Squeeze(wanted), x) if wanted else x


def unsqueeze(x: Value, axes: int | Sequence[int]) -> Value:
    """``x`` with new axes of length 1 at these positions of the result."""
    wanted = (axes,) if isinstance(axes, int) else tuple(axes)
    return apply(Unsqueeze(wanted), x) if wanted else x


def with_one_batch_axis(x: Value, sample: int, function: Callable[[Value], Value]) -> Value:
    """``function(x)`` for a function of ``[batch, *sample]``, where ``x`` may have any axes before its last ``sample``.

    They are folded into one and unfolded again in the result. ValueError for fewer than ``sample`` axes.
    """
    if x.rank < sample:
        raise ValueError(f"a sample has {sample} axes, got {x.type}")
    lead = x.shape[: x.rank - sample]
    if len(lead) == 1:
        return function(x)
    y = function(x.reshape((dims.product(lead), *x.shape[x.rank - sample :])))
    return y.reshape((*lead, *y.shape[1:]))


def inverse(perm: Sequence[int]) -> tuple[int, ...]:
    order = [0] * len(perm)
    for position, axis in enumerate(perm):
        order[axis] = position
    return tuple(order)


def axes_of(node: NodeView) -> tuple[int, ...] | None:
    """Axes given as an operand, or as an attribute as before opset 13."""
    if "axes" in node.attributes:
        return tuple(node.attributes["axes"])
    given = node.static(1)
    return None if given is None else tuple(int(axis) for axis in np.atleast_1d(given))
