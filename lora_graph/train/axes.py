"""Where the samples of a batch lie in what an op makes of them: a rule for each op that leaves them apart."""

from __future__ import annotations

from collections.abc import Sequence

from lora_graph.ir import dims
from lora_graph.ir.dims import Dim, Shape
from lora_graph.ir.value import Value
from lora_graph.ops.convolution import Conv, ConvTranspose
from lora_graph.ops.cumulative import CumSum
from lora_graph.ops.gather import Gather, GatherElements
from lora_graph.ops.linalg import MatMul, Trilu
from lora_graph.ops.pooling import AveragePool, MaxPool
from lora_graph.ops.recurrence import Recurrent
from lora_graph.ops.reduce import ArgMax, Distribution, Reduction
from lora_graph.ops.shape import Expand, Reshape, Squeeze, Transpose, Unsqueeze
from lora_graph.ops.slice import Concat, Pad, Slice

Axis = int | None
"""The axis along which a value holds the samples, or None for one that has nothing to do with them."""


def only_axis(shape: Shape, batch: Dim) -> Axis:
    """The only axis of this size."""
    found = [i for i, size in enumerate(shape) if size == batch]
    return found[0] if len(found) == 1 else None


def sample_axis(value: Value, axes: Sequence[Axis], batch: Dim) -> Axis:
    """The axis along which ``value`` holds the samples, those of its operands being ``axes``; None where it has none,
    or where its op mixes samples or is not known here."""
    op, operands, first = value.op, value.operands, axes[0]
    if op.elementwise or isinstance(op, Expand):
        return _broadcast(value, axes, batch)
    match op:
        case MatMul():
            return _product(value, axes)
        case Gather():
            return _gathered(op, operands, axes)
        case GatherElements() | Concat():
            return first if {*axes} == {first} and first is not None and first != op.axis % operands[0].rank else None
        case Recurrent():
            return 1 if first == 1 and axes[1:4] == [None] * 3 and all(a in (None, 0, 1) for a in axes[4:]) else None
    if first is None or any(axis is not None for axis in axes[1:]):
        return None
    x = operands[0]
    match op:
        case Transpose():
            return op.perm.index(first)
        case Reshape():
            return _reshaped(op, x, first, batch)
        case Squeeze():
            return first - sum(axis % x.rank < first for axis in op.axes)
        case Unsqueeze():
            return [i for i in range(value.rank) if i not in {axis % value.rank for axis in op.axes}][first]
        case Reduction():
            return _reduced(first, op.reduced(x.type), op.keepdims)
        case ArgMax():
            return _reduced(first, (op.axis % x.rank,), op.keepdims)
        case Distribution() | CumSum():
            return first if op.axis % x.rank != first else None
        case Trilu():
            return first if first < x.rank - 2 else None
        case Slice():
            return first if first not in {axis % x.rank for axis in op.axes} else None
        case Pad():
            return first if op.pads[first] == op.pads[first + x.rank] == 0 else None
        case Conv() | ConvTranspose() | MaxPool() | AveragePool():
            return 0 if first == 0 else None
    return None


def _broadcast(value: Value, axes: Sequence[Axis], batch: Dim) -> Axis:
    """One axis, counted from the last; operands without samples have at most size 1 there."""
    found = {axis - o.rank for o, axis in zip(value.operands, axes, strict=True) if axis is not None}
    if not found and isinstance(value.op, Expand):
        # equal for all samples
        at = only_axis(value.shape, batch)
        found = set() if at is None else {at - value.rank}
    if len(found) != 1:
        return None
    (at_end,) = found
    others = (o for o, axis in zip(value.operands, axes, strict=True) if axis is None)
    if any(o.rank >= -at_end and o.shape[at_end] != 1 for o in others):
        return None
    return value.rank + at_end


def _product(value: Value, axes: Sequence[Axis]) -> Axis:
    """The samples of a b may lie along the rows of a, the columns of b, or an axis before, which both have or one."""
    (a, b), (left, right) = value.operands, axes
    if min(a.rank, b.rank) < 2:
        return left if b.rank == 1 and right is None and left is not None and left < a.rank - 1 else None
    if left is not None and right is not None:
        return left if left == right < a.rank - 2 and a.rank == b.rank else None
    of, other, axis, summed = (a, b, left, -1) if left is not None else (b, a, right, -2)
    assert axis is not None
    at = axis - of.rank
    if at == summed or (at < -2 and other.rank >= -at and other.shape[at] != 1):
        return None
    return value.rank + at


def _gathered(op: Gather, operands: Sequence[Value], axes: Sequence[Axis]) -> Axis:
    at, picked = op.axis % operands[0].rank, operands[1].rank
    match axes:
        case (None, int(axis)):
            return at + axis
        case (int(axis), None) if axis != at:
            return axis if axis < at else axis + picked - 1
    return None


def _reshaped(op: Reshape, x: Value, axis: int, batch: Dim) -> Axis:
    """What stands before the axis, and the axis, stay; or the samples come first, so that each stays in one piece."""
    if op.shape[: axis + 1] == x.shape[: axis + 1]:
        return axis
    return 0 if axis == 0 and op.shape and dims.exact_quotient(op.shape[0], batch) is not None else None


def _reduced(axis: int, gone: tuple[int, ...], keepdims: int) -> Axis:
    if axis in gone:
        return None
    return axis if keepdims else axis - sum(other < axis for other in gone)
