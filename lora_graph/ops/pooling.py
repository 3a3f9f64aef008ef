"""Pooling: the maximum or the mean of each window (ONNX opset 12 and 19), or of a whole channel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce
from itertools import product
from operator import add
from typing import Any, ClassVar

import numpy as np

from lora_graph.ir import dims
from lora_graph.ir.dims import Dim, Shape
from lora_graph.ir.leaves import constant
from lora_graph.ir.op import Lowering, NodeView
from lora_graph.ir.types import Array, TensorType
from lora_graph.ir.value import Value, apply
from lora_graph.ops.base import Cotangents, Varying, store
from lora_graph.ops.fused import Fused
from lora_graph.ops.gather import ScatterElements
from lora_graph.ops.pool_windows import Axis, Pool
from lora_graph.ops.shape import expand, zeros_like
from lora_graph.ops.slice import Slice, pad
from lora_graph.ops.windows import both_ends, per_axis


@dataclass(frozen=True, eq=False)
class MaxPool(Pool):
    """y = the maximum of each window; of equal ones the first has the cotangent."""

    kinds: ClassVar[str] = "fiu"
    writes_out: ClassVar[bool] = True

    def evaluate(self, *operands: Any, out: Any = None) -> Any:
        (y,) = operands
        for i, axis in enumerate(self.axes(y.shape[2:]), 2):
            best = first_elements(y, i, axis)
            for windows, elements in axis.taps():
                to = best[along(i, windows)]
                np.maximum(to, y[along(i, elements)], out=to)
            y = best
        return store(y, out)

    def pullback(self, cotangent: Value, result: Value, *operands: Value) -> Cotangents:
        (x,) = operands
        at = apply(MaxPoolIndices(**self.attributes()), x)
        into = zeros_like(x).reshape(-1)
        return (apply(ScatterElements(0, "add"), into, at.reshape(-1), cotangent.reshape(-1)).reshape(x.shape),)

    @classmethod
    def read(cls, node: NodeView) -> Value | tuple[Value, ...]:
        (x,) = node.operands
        assert x is not None
        fields = cls.fields_of(node)
        at: Value = apply(MaxPoolIndices(**fields), x)
        if node.attributes.get("storage_order"):
            at = column_major(at, x.shape[2:])
        return apply(cls(**fields), x), at


@dataclass(frozen=True, eq=False)
class MaxPoolIndices(Pool):
    """Where in the flattened x the (first) maximum of each window is, int64: the second result of ONNX's MaxPool."""

    kinds: ClassVar[str] = "fiu"

    def infer(self, *operands: TensorType) -> TensorType:
        return super().infer(*operands).with_dtype(np.int64)

    def evaluate(self, *operands: Any, out: Any = None) -> Any:
        (x,) = operands
        axes = self.axes(x.shape[2:])
        best = x
        for i, axis in enumerate(axes, 2):
            best = first_elements(best, i, axis)
        # which element of its window the best one is; numbers only grow, so that the first maximum stays
        firsts = np.ix_(*(axis.inside().argmax(1) for axis in axes))
        chosen = np.empty(best.shape, np.min_scalar_type(int(np.prod(self.kernel_shape))))
        chosen[...] = np.ravel_multi_index(firsts, self.kernel_shape)
        for number, taps in enumerate(product(*(axis.taps() for axis in axes))):
            windows, elements = zip(*taps, strict=True)
            tap, to, which = x[:, :, *elements], best[:, :, *windows], chosen[:, :, *windows]
            better = (tap > to).astype(chosen.dtype)
            better *= chosen.dtype.type(number)
            np.maximum(which, better, out=which)
            np.maximum(to, tap, out=to)
        behind, starts = self._behind(x, axes), self._starts(x, axes)
        return behind.take(chosen) + starts

    def _behind(self, x: Array, axes: Sequence[Axis]) -> Array:
        """How far behind the start of its window each element of it is in the flattened x."""
        steps: Array = np.cumprod([1, *x.shape[:2:-1]])[::-1]
        steps = steps * [axis.dilation for axis in axes]
        return np.asarray(steps @ np.indices(self.kernel_shape).reshape(len(axes), -1))

    def _starts(self, x: Array, axes: Sequence[Axis]) -> Array:
        """Where each window starts in the flattened x, outside of it if there is padding."""
        shape = (*x.shape[:2], *(axis.count for axis in axes))
        starts = np.zeros((1,) * x.ndim, np.int64)
        step = 1
        for i in reversed(range(x.ndim)):
            stride, before = (1, 0) if i < 2 else (axes[i - 2].stride, axes[i - 2].before)
            starts = starts + (np.arange(shape[i]) * stride - before).reshape((-1,) + (1,) * (x.ndim - 1 - i)) * step
            step *= x.shape[i]
        return starts

    def pullback(self, cotangent: Value, result: Value, *operands: Value) -> Cotangents:
        return (None,)

    def lower(self, to: Lowering, *operands: str) -> str:
        return to.result(to.node("MaxPool", operands, self.written(to, operands[0]), results=2), 1)


def column_major(at: Value, spatial: Shape) -> Value:
    """Indices into flattened images of ``spatial`` size, where these are written with the first axis the fastest."""
    behind = dims.product(spatial)
    inside, step = at % behind, dims.dim(1)
    start = at - inside
    for length in spatial:
        behind = behind // length
        start, inside, step = start + inside / behind * step, inside % behind, step * length
    return start


@dataclass(frozen=True, eq=False)
class AveragePool(Pool, Fused):
    """y = the mean of each window; padding counts as zeros with ``count_include_pad`` and not at all without.

    What a window of ``ceil_mode`` reaches beyond the padding never counts.
    """

    count_include_pad: int = 0
    writes_out: ClassVar[bool] = True

    def decompose(self, *operands: Any) -> Any:
        (y,) = operands
        for i, axis in enumerate(self.axes(y.shape[2:]), 2):
            y = window_sums(y, i, axis) / self._counts(axis, y.dtype, y.rank - 1 - i)
        return y

    def _counts(self, axis: Axis, dtype: np.dtype[Any], trailing: int) -> Value:
        """How many elements of each window along one axis count, to divide something by that has more axes behind."""
        if self.count_include_pad:
            axis = replace(axis, size=axis.size + axis.before + axis.after, before=0, after=0)
        if not self.ceil_mode and axis.before == axis.after == 0:
            return constant(axis.kernel, dtype)
        return window_sums(expand(constant(1, dtype), (axis.size, *(1,) * trailing)), 0, axis)

    def evaluate(self, *operands: Any, out: Any = None) -> Any:
        (x,) = operands
        y = x.astype(np.float32) if x.dtype == np.float16 else x
        for i, axis in enumerate(self.axes(x.shape[2:]), 2):
            total = np.zeros((*y.shape[:i], axis.count, *y.shape[i + 1 :]), y.dtype)
            for windows, elements in axis.taps():
                total[along(i, windows)] += y[along(i, elements)]
            counted = axis.looked_at() < axis.size + axis.after if self.count_include_pad else axis.inside()
            total /= counted.sum(1).astype(y.dtype).reshape((-1,) + (1,) * (y.ndim - 1 - i))
            y = total
        return store(y.astype(x.dtype, copy=False), out)

    def is_linear(self, varying: Varying, operands: tuple[TensorType, ...], lead: int) -> bool:
        return lead <= 2

    @classmethod
    def read(cls, node: NodeView) -> Value:
        included = node.attributes.get("count_include_pad", 0)
        return apply(cls(**cls.fields_of(node), count_include_pad=included), node.operands[0])


class GlobalPool(Fused, abstract=True):
    """One number a channel: x ``[batch, channels, *spatial]`` reduced over its spatial axes, which stay with size 1."""

    def infer(self, *operands: TensorType) -> TensorType:
        (x,) = operands
        if x.rank < 3 or not x.is_float:
            raise ValueError(f"{self.name} takes floats with batch, channels and at least one spatial axis, got {x}")
        return x.with_shape((*x.shape[:2], *(1,) * (x.rank - 2)))


class GlobalAveragePool(GlobalPool):
    """y = the mean over the spatial axes."""

    def decompose(self, *operands: Any) -> Any:
        (x,) = operands
        return x.mean(axis=tuple(range(2, x.rank)), keepdims=True)

    def is_linear(self, varying: Varying, operands: tuple[TensorType, ...], lead: int) -> bool:
        return lead <= 2


class GlobalMaxPool(GlobalPool):
    """y = the maximum over the spatial axes; equal ones share the cotangent."""

    def decompose(self, *operands: Any) -> Any:
        (x,) = operands
        return x.max(axis=tuple(range(2, x.rank)), keepdims=True)


def along(axis: int, taken: slice) -> tuple[slice, ...]:
    """The index that takes a slice along one axis."""
    return (*(slice(None),) * axis, taken)


def first_elements(x: Array, at: int, axis: Axis) -> Array:
    """The first element of each window along one axis that is no padding."""
    elements = axis.looked_at()[np.arange(axis.count), axis.inside().argmax(1)]
    return np.asarray(x.take(elements, axis=at))


def window_sums(x: Value, at: int, axis: Axis) -> Value:
    """The sum over each window along one axis, padding counted as zeros.

    x is cut into blocks of one stride, of which the windows' elements lie in the first, the second and so on.
    """
    blocks = (axis.kernel - 1) * axis.dilation // axis.stride + 1
    x = pad_axis(x, at, axis.before, (axis.count + blocks - 1) * axis.stride - axis.size - axis.before)
    parts = []
    for block in range(blocks):
        start = block * axis.stride
        taken = [i - start for i in range(0, axis.kernel * axis.dilation, axis.dilation) if i // axis.stride == block]
        if not taken:
            continue
        part = pad_axis(x, at, -start, start - (blocks - 1) * axis.stride)
        if axis.stride > 1:
            part = part.reshape((*x.shape[:at], axis.count, axis.stride, *x.shape[at + 1 :]))
            part = apply(Slice((taken[0],), (taken[-1] + 1,), (at + 1,), (axis.dilation,)), part).sum(axis=at + 1)
        parts.append(part)
    return reduce(add, parts)


def pad_axis(x: Value, at: int, before: Dim, after: Dim) -> Value:
    """``x`` with zeros before and after along one axis; negative widths cut."""
    none = [0] * at, [0] * (x.rank - 1 - at)
    return pad(x, [*none[0], before, *none[1]], [*none[0], after, *none[1]])


def max_pool(
    x: Value,
    kernel_shape: int | Sequence[int],
    strides: int | Sequence[int] = 1,
    pads: int | Sequence[Dim] = 0,
    dilations: int | Sequence[int] = 1,
    ceil_mode: bool = False,
) -> Value:
    """The maximum of each window of ``[batch, channels, *spatial]``; see :class:`MaxPool`.

    Attributes are one int, or one for each spatial axis; pads may also be all begins, then all ends.
    """
    return apply(MaxPool(**_windows(x, kernel_shape, strides, pads, dilations, ceil_mode)), x)


def max_pool_indices(
    x: Value,
    kernel_shape: int | Sequence[int],
    strides: int | Sequence[int] = 1,
    pads: int | Sequence[Dim] = 0,
    dilations: int | Sequence[int] = 1,
    ceil_mode: bool = False,
) -> Value:
    """Where in the flattened ``x`` the maxima that :func:`max_pool` gives are, as int64."""
    return apply(MaxPoolIndices(**_windows(x, kernel_shape, strides, pads, dilations, ceil_mode)), x)


def average_pool(
    x: Value,
    kernel_shape: int | Sequence[int],
    strides: int | Sequence[int] = 1,
    pads: int | Sequence[Dim] = 0,
    dilations: int | Sequence[int] = 1,
    ceil_mode: bool = False,
    count_include_pad: bool = False,
) -> Value:
    """The mean of each window of ``[batch, channels, *spatial]``; see :class:`AveragePool`.

    Attributes are one int, or one for each spatial axis; pads may also be all begins, then all ends.
    """
    fields = _windows(x, kernel_shape, strides, pads, dilations, ceil_mode)
    return apply(AveragePool(**fields, count_include_pad=int(count_include_pad)), x)


def global_average_pool(x: Value) -> Value:
    """The mean of each channel of ``[batch, channels, *spatial]``, whose spatial axes stay with size 1."""
    return apply(GlobalAveragePool(), x)


def global_max_pool(x: Value) -> Value:
    """The maximum of each channel of ``[batch, channels, *spatial]``, whose spatial axes stay with size 1."""
    return apply(GlobalMaxPool(), x)


def _windows(
    x: Value,
    kernel_shape: int | Sequence[int],
    strides: int | Sequence[int],
    pads: int | Sequence[Dim],
    dilations: int | Sequence[int],
    ceil_mode: bool,
) -> dict[str, Any]:
    axes = max(x.rank - 2, 1)
    return {
        "kernel_shape": per_axis("kernel_shape", kernel_shape, axes),
        "strides": per_axis("strides", strides, axes),
        "pads": both_ends("pads", pads, axes),
        "dilations": per_axis("dilations", dilations, axes),
        "ceil_mode": int(ceil_mode),
    }
