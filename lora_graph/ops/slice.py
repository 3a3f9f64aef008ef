"""Taking parts of tensors and joining them: slices, padding, concatenation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any, ClassVar

import numpy as np

from lora_graph.ir import dims
from lora_graph.ir.dims import Dim
from lora_graph.ir.leaves import constant
from lora_graph.ir.op import Lowering, NodeView, Op
from lora_graph.ir.types import TensorType, meet, normalize_axis, show
from lora_graph.ir.value import Value, apply
from lora_graph.ops.base import Cotangents, Varying
from lora_graph.ops.shape import expand, squeeze, unsqueeze

END, NEGATIVE_END = 2**63 - 1, -(2**63) + 1
"""The bounds that mean "to the end" in ONNX."""


@dataclass(frozen=True, eq=False)
class Slice(Op):
    """y = x[starts:ends:steps] along ``axes``; bounds as in NumPy, clamped to the axis.

    As in ONNX, and unlike NumPy, a backward slice that starts before the axis starts at its first element.
    """

    starts: tuple[Dim, ...]
    ends: tuple[Dim, ...]
    axes: tuple[int, ...]
    steps: tuple[int, ...]
    view: ClassVar[bool] = True

    @staticmethod
    def index(x: Value, index: Any) -> Value:
        """NumPy's basic indexing, spelled with Slice, Squeeze and Unsqueeze."""
        return basic_index(x, index if isinstance(index, tuple) else (index,))

    def infer(self, *operands: TensorType) -> TensorType:
        (x,) = operands
        shape = list(x.shape)
        seen: set[int] = set()
        for start, end, axis, step in zip(self.starts, self.ends, self.axes, self.steps, strict=True):
            if step == 0:
                raise ValueError("Slice: a step cannot be 0")
            at = normalize_axis(axis, x.rank, "Slice")
            if at in seen:
                raise ValueError(f"Slice: axes {self.axes} repeat an axis of {x}")
            seen.add(at)
            shape[at] = sliced_size(start, end, step, x.shape[at])
        return x.with_shape(shape)

    @property
    def counts_forwards(self) -> bool:
        """Whether NumPy's indexing means the same for every length of the axes."""
        return all(step > 0 for step in self.steps)

    def region(self, rank: int) -> tuple[slice, ...]:
        """NumPy's index."""
        index = [slice(None)] * rank
        for start, end, axis, step in zip(self.starts, self.ends, self.axes, self.steps, strict=True):
            index[axis] = slice(start, end, step)
        return tuple(index)

    def evaluate(self, *operands: Any, out: Any = None) -> Any:
        (x,) = operands
        region = self.region(x.ndim)
        if self.counts_forwards:
            return x[region]
        clamped = [
            slice(max(part.start, -size), part.stop, part.step) if part.step else part
            for part, size in zip(region, x.shape, strict=True)
        ]
        return x[tuple(clamped)]

    def pullback(self, cotangent: Value, result: Value, *operands: Value) -> Cotangents:
        (x,) = operands
        for start, axis, step in zip(self.starts, self.axes, self.steps, strict=True):
            cotangent = spread(cotangent, axis % x.rank, start, step, x.shape[axis])
        return (cotangent,)

    def is_linear(self, varying: Varying, operands: tuple[TensorType, ...], lead: int) -> bool:
        return all(axis % operands[0].rank >= lead for axis in self.axes)

    def lower(self, to: Lowering, *operands: str) -> str:
        rest = [to.constant(numbers, np.int64) for numbers in (self.axes, self.steps)]
        return to.node("Slice", [*operands, to.shape(self.starts), to.shape(self.ends), *rest])

    @classmethod
    def read(cls, node: NodeView) -> Value:
        x, attributes = node.operands[0], node.attributes
        if node.opset < 10:
            starts, ends, axes = attributes["starts"], attributes["ends"], attributes.get("axes")
            return apply(cls(starts, ends, axes or tuple(range(len(starts))), (1,) * len(starts)), x)
        starts, ends = node.static_shape(1), node.static_shape(2)
        if x is None or starts is None or ends is None:
            from lora_graph.ops.prefix import SliceTo

            return SliceTo.read(node)
        axes, steps = node.static(3), node.static(4)
        return apply(
            cls(
                starts,
                ends,
                tuple(range(len(starts))) if axes is None else tuple(map(int, axes)),
                (1,) * len(starts) if steps is None else tuple(map(int, steps)),
            ),
            x,
        )


@dataclass(frozen=True, eq=False)
class Concat(Op):
    """The operands one after the other along ``axis``."""

    axis: int
    writes_out: ClassVar[bool] = True

    def infer(self, *operands: TensorType) -> TensorType:
        if not operands:
            raise ValueError("Concat: needs at least one operand")
        first = operands[0]
        at = normalize_axis(self.axis, first.rank, "Concat")
        shape = list(first.shape)
        for other in operands[1:]:
            if other.dtype != first.dtype:
                raise TypeError(f"Concat: operands must share one dtype, got {first} and {other}")
            if other.rank != first.rank:
                raise ValueError(f"Concat: operands must have one rank, got {first} and {other}")
            for i, d in enumerate(other.shape):
                shape[i] = shape[i] + d if i == at else meet(shape[i], d, f"Concat of {first} and {other}")
        return first.with_shape(shape)

    def evaluate(self, *operands: Any, out: Any = None) -> Any:
        return np.concatenate(operands, self.axis, out=out)

    def pullback(self, cotangent: Value, result: Value, *operands: Value) -> Cotangents:
        at = self.axis % result.rank
        ends = accumulate((operand.shape[at] for operand in operands), initial=dims.dim(0))
        return tuple(slice_axis(cotangent, at, start, end) for start, end in pairwise(ends))


@dataclass(frozen=True, eq=False)
class Pad(Op):
    """x with ``pads`` (all begins, then all ends) elements around it, of a scalar second operand or 0."""

    pads: tuple[Dim, ...]
    mode: str = "constant"

    def __post_init__(self) -> None:
        if self.mode not in ("constant", "reflect", "edge", "wrap"):
            raise ValueError(f"Pad: mode is 'constant', 'reflect', 'edge' or 'wrap', not {self.mode!r}")

    def infer(self, *operands: TensorType) -> TensorType:
        x = operands[0]
        if len(self.pads) != 2 * x.rank:
            raise ValueError(f"Pad: {x} takes {2 * x.rank} pads, got {len(self.pads)}")
        if len(operands) > 1 and operands[1] != x.with_shape(()):
            raise ValueError(f"Pad: the padding of {x} must be a scalar of its dtype, got {operands[1]}")
        shape = [d + self.pads[i] + self.pads[i + x.rank] for i, d in enumerate(x.shape)]
        if any(isinstance(d, int) and d < 0 for d in shape):
            raise ValueError(f"Pad: {show(self.pads)} cuts more than there is of {x}")
        return x.with_shape(shape)

    def evaluate(self, *operands: Any, out: Any = None) -> Any:
        x = operands[0]
        if not self.pads:
            return np.array(x)
        widths = list(zip(self.pads[: x.ndim], self.pads[x.ndim :], strict=True))
        cut = tuple(slice(max(0, -a), n - max(0, -b)) for (a, b), n in zip(widths, x.shape, strict=True))  # type: ignore[type-var]
        kept = [(max(0, a), max(0, b)) for a, b in widths]  # type: ignore[type-var]
        if self.mode != "constant":
            return np.pad(x[cut], kept, mode=self.mode)  # type: ignore[call-overload]
        value = operands[1] if len(operands) > 1 else 0
        return np.pad(x[cut], kept, constant_values=value)  # type: ignore[arg-type]

    def pullback(self, cotangent: Value, result: Value, *operands: Value) -> Cotangents:
        if self.mode != "constant":
            raise NotImplementedError(f"Pad: no derivative for mode {self.mode!r}")
        x = operands[0]
        inner = pad(cotangent, [-p for p in self.pads[: x.rank]], [-p for p in self.pads[x.rank :]])
        return (inner, cotangent.sum() - inner.sum()) if len(operands) > 1 else (inner,)

    def lower(self, to: Lowering, *operands: str) -> str:
        return to.node("Pad", [operands[0], to.shape(self.pads), *operands[1:]], {"mode": self.mode})

    @classmethod
    def read(cls, node: NodeView) -> Value:
        x, mode = node.operands[0], node.attributes.get("mode", "constant")
        if node.opset < 11:
            value = [constant(node.attributes.get("value", 0.0), x.dtype)] if x is not None else []
            return apply(cls(node.attributes["pads"], mode), x, *value)
        pads, axes = node.static_shape(1), node.static(3)
        if x is None or pads is None:
            raise ValueError("Pad: the pads have to be known or computed from dimensions")
        if axes is not None:
            full: list[Dim] = [0] * (2 * x.rank)
            for i, axis in enumerate(int(a) % x.rank for a in axes):
                full[axis], full[axis + x.rank] = pads[i], pads[i + len(axes)]
            pads = tuple(full)
        return apply(cls(pads, mode), x, *(v.reshape(()) for v in node.operands[2:3] if v is not None))


def concat(parts: Sequence[Value], axis: int = -1) -> Value:
    """The parts one after the other along ``axis``."""
    return apply(Concat(axis), *parts)


def pad(x: Value, before: Sequence[Dim], after: Sequence[Dim]) -> Value:
    """``x`` with zeros around it; negative widths cut."""
    pads = (*before, *after)
    return apply(Pad(pads), x) if any(p != 0 for p in pads) else x


def slice_axis(x: Value, axis: int, start: Dim, end: Dim) -> Value:
    """``x[start:end]`` along one axis."""
    if start == 0 and end == x.shape[axis]:
        return x
    return apply(Slice((start,), (end,), (axis,), (1,)), x)


def bound(index: Dim, size: Dim) -> Dim:
    """A slice bound counted from the front and held within ``0..size``."""
    if isinstance(index, int) and index < 0:
        return dims.maximum(size + index, 0)
    if isinstance(index, int) and index >= 2**31 - 1:
        return size
    return dims.minimum(index, size)


def sliced_size(start: Dim, end: Dim, step: int, size: Dim) -> Dim:
    if isinstance(start, int) and isinstance(end, int) and isinstance(size, int):
        return len(range(*slice(max(start, -size), end, step).indices(size)))
    if step < 0:
        if start == -1 and isinstance(end, int) and end < -(2**31):
            return (size + (-step - 1)) // -step
        raise ValueError("Slice: a backward slice of a named dimension has to take the whole axis")
    length = dims.maximum(bound(end, size) - bound(start, size), 0)
    return length if step == 1 else (length + (step - 1)) // step


def basic_index(x: Value, index: tuple[Any, ...]) -> Value:
    given = [item for item in index if item is not None]
    if Ellipsis not in given:
        index, given = (*index, Ellipsis), [*given, Ellipsis]
    skipped = x.rank - (len(given) - 1)
    if skipped < 0:
        raise ValueError(f"too many indices for {x.type}: {len(given) - 1}")
    slices: list[tuple[Dim, Dim, int, int]] = []
    gone: list[int] = []
    new: list[int] = []
    axis = position = 0
    for item in index:
        if item is Ellipsis:
            axis, position = axis + skipped, position + skipped
        elif item is None:
            new.append(position)
            position += 1
        elif isinstance(item, slice):
            if item != slice(None):
                slices.append((*_bounds(item, x.shape[axis]), axis, 1 if item.step is None else item.step))
            axis, position = axis + 1, position + 1
        elif isinstance(item, int) and not isinstance(item, bool):
            size = x.shape[axis]
            if isinstance(size, int) and not -size <= item < size:
                raise ValueError(f"index {item} is out of range for axis {axis} of {x.type}")
            slices.append((item, item + 1 if item != -1 else size, axis, 1))
            gone.append(axis)
            axis += 1
        else:
            raise TypeError(f"a Value is indexed with ints, slices, None and ..., not {item!r}")
    if slices:
        starts, ends, axes, steps = zip(*slices, strict=True)
        x = apply(Slice(starts, ends, axes, steps), x)
    return unsqueeze(squeeze(x, gone), new)


def _bounds(item: slice, size: Dim) -> tuple[Dim, Dim]:
    backward = item.step is not None and item.step < 0
    if backward and isinstance(size, int) and isinstance(item.start, int) and item.start < -size:
        return 0, 0
    start = (-1 if backward else 0) if item.start is None else item.start
    end = (NEGATIVE_END if backward else END) if item.stop is None else item.stop
    return start, end


def spread(cotangent: Value, axis: int, start: Dim, step: int, size: Dim) -> Value:
    """The transpose of ``x[start::step]`` along one axis of ``size``: zeros where nothing was taken."""
    count = cotangent.shape[axis]
    if count == 0:
        return expand(constant(0, cotangent.dtype), [size if i == axis else d for i, d in enumerate(cotangent.shape)])
    first = bound(start, size)
    if step < 0:
        first = dims.minimum(first, size - 1)
        cotangent = apply(Slice((-1,), (NEGATIVE_END,), (axis,), (-1,)), cotangent)
        first, step = first + (count - 1) * step, -step
    if step > 1:
        none = [0] * (cotangent.rank + 1)
        gaps = [step - 1 if i == axis + 1 else 0 for i in range(cotangent.rank + 1)]
        wide = pad(unsqueeze(cotangent, axis + 1), none, gaps)
        cotangent = wide.reshape([count * step if i == axis else d for i, d in enumerate(cotangent.shape)])
    before: list[Dim] = [0] * cotangent.rank
    after: list[Dim] = [0] * cotangent.rank
    before[axis], after[axis] = first, size - first - count * step
    return pad(cotangent, before, after)


def slice_(
    x: Value, starts: Sequence[Dim], ends: Sequence[Dim], axes: Sequence[int], steps: Sequence[int] | None = None
) -> Value:
    """x[starts:ends:steps] along ``axes``; ``x[1:3]`` says the same for those who have the axes in order."""
    return apply(Slice(tuple(starts), tuple(ends), tuple(axes), tuple(steps or [1] * len(axes))), x)
