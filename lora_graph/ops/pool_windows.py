"""What the pools share: their attributes, where their windows lie, and their ONNX spelling."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from lora_graph.ir import dims
from lora_graph.ir.dims import Dim
from lora_graph.ir.op import Lowering, NodeView, Op
from lora_graph.ir.types import Array, TensorType
from lora_graph.ops.windows import check_windows, extent, read_pads, same_mode, window_count, written_pads

Tap = tuple[slice, slice]
"""Some windows, and the elements that all of them look at, one each."""


@dataclass(frozen=True)
class Axis:
    """The windows along one axis: window i looks at the elements i · stride + j · dilation - before, j < kernel.

    All but ``kernel``, ``stride`` and ``dilation`` may be symbolic in a type; to compute with, they are ints.
    """

    size: Any
    count: Any
    kernel: int
    stride: int
    dilation: int
    before: Any
    after: Any

    def looked_at(self) -> Array:
        """The elements each window looks at, ``[count, kernel]``; those outside ``0..size`` are padding."""
        starts = np.arange(self.count) * self.stride - self.before
        looked_at: Array = starts[:, None] + np.arange(self.kernel) * self.dilation
        return looked_at

    def inside(self) -> Array:
        """Which of the elements looked at are no padding; ValueError where a window has none.

        That takes a dilated window: any other is longer than the padding.
        """
        at = self.looked_at()
        inside: Array = (at >= 0) & (at < self.size)
        if not inside.any(1).all():
            raise ValueError(
                f"pads: a window of kernel_shape {self.kernel} with dilations {self.dilation} over {self.size} "
                "elements would hold nothing but padding"
            )
        return inside

    def taps(self) -> list[Tap]:
        """For each j < kernel, the windows in which it is no padding and the elements there."""
        found = []
        for j in range(self.kernel):
            shift = j * self.dilation - self.before
            first = max(0, -(shift // self.stride))
            last = max(first, min(self.count, (self.size - 1 - shift) // self.stride + 1))
            start = first * self.stride + shift
            stop = start + (last - first - 1) * self.stride + 1 if last > first else start
            found.append((slice(first, last), slice(start, stop, self.stride)))
        return found


@dataclass(frozen=True, eq=False)
class Pool(Op, abstract=True):
    """One number for each window that slides over the spatial axes of x ``[batch, channels, *spatial]``.

    ``pads`` are all begins, then all ends; strides and dilations are 1 and pads 0 where they are not given. With
    ``ceil_mode`` a last window may reach beyond the padding, unless it would begin behind the last element.
    """

    kernel_shape: tuple[int, ...]
    strides: tuple[int, ...] = ()
    pads: tuple[Dim, ...] = ()
    dilations: tuple[int, ...] = ()
    ceil_mode: int = 0
    kinds: ClassVar[str] = "f"
    """NumPy dtype kinds the operand may have."""

    def __post_init__(self) -> None:
        axes = len(self.kernel_shape)
        if not axes or min(self.kernel_shape) < 1:
            raise ValueError(f"{self.name}: kernel_shape must be ints of at least 1, got {self.kernel_shape}")
        for name, default in (("strides", (1,) * axes), ("dilations", (1,) * axes), ("pads", (0, 0) * axes)):
            object.__setattr__(self, name, getattr(self, name) or default)
        if len(self.strides) != axes:
            raise ValueError(f"{self.name}: strides must be {axes} ints, as in kernel_shape, got {self.strides}")
        check_windows(self.name, self.strides, self.pads, self.dilations)
        for i, padding in enumerate(self.pads):
            reach: Any = extent(self.kernel_shape[i % axes], self.dilations[i % axes])
            if isinstance(padding, int) and padding >= reach:
                raise ValueError(f"{self.name}: pads must be smaller than the window, {reach}, got {self.pads}")

    def axes(self, spatial: Sequence[Dim]) -> list[Axis]:
        """The windows along each axis; ValueError where none fits."""
        found = []
        same = same_mode(self.pads, tuple(spatial), self.kernel_shape, self.strides, self.dilations)
        for i, (size, kernel, stride, dilation) in enumerate(
            zip(spatial, self.kernel_shape, self.strides, self.dilations, strict=True)
        ):
            before, after, reach = self.pads[i], self.pads[i + len(spatial)], extent(kernel, dilation)
            count = window_count(size, reach, stride, before + after + (stride - 1 if self.ceil_mode else 0))
            if same:
                count = (size + stride - 1) // stride
            elif self.ceil_mode and not dims.is_size(reach - stride - after):
                count = dims.minimum(count, (size + before - 1) // stride + 1)
            if isinstance(count, int) and count < 1:
                raise ValueError(
                    f"{self.name}: kernel_shape {self.kernel_shape} with dilations {self.dilations} reaches over "
                    f"{reach} elements, but spatial axis {i} has {size} and pads {self.pads}"
                )
            found.append(Axis(size, count, kernel, stride, dilation, before, after))
        return found

    def infer(self, *operands: TensorType) -> TensorType:
        (x,) = operands
        if x.rank != len(self.kernel_shape) + 2:
            raise ValueError(
                f"{self.name}: kernel_shape {self.kernel_shape} takes batch, channels and "
                f"{len(self.kernel_shape)} spatial axes, got {x}"
            )
        if ("f" if x.is_float else x.dtype.kind) not in self.kinds:
            raise TypeError(f"{self.name} is not defined for {x}")
        return x.with_shape((*x.shape[:2], *(axis.count for axis in self.axes(x.shape[2:]))))

    def flops(self, result: Any, *operands: TensorType) -> Any:
        return result.size * math.prod(self.kernel_shape)

    def lower(self, to: Lowering, *operands: str) -> str:
        return to.node(self.name, operands, self.written(to, operands[0]))

    def written(self, to: Lowering, operand: str) -> dict[str, Any]:
        """The attributes, symbolic pads as ``auto_pad``; ValueError for what ONNX or its runtime gets wrong."""
        spatial = to.type(operand).shape[2:]
        if all(isinstance(padding, int) for padding in self.pads):
            if any(p >= k for p, k in zip(self.pads, self.kernel_shape * 2, strict=True)):  # type: ignore[operator]
                raise ValueError(
                    f"{self.name}: ONNX Runtime takes pads below kernel_shape {self.kernel_shape}, not {self.pads}"
                )
        elif max(self.dilations) > 1 or any(s > k for s, k in zip(self.strides, self.kernel_shape, strict=True)):
            raise ValueError(
                f"{self.name}: ONNX Runtime chooses pads of its own where dilations {self.dilations} are not 1, or "
                f"strides {self.strides} exceed kernel_shape {self.kernel_shape}"
            )
        if self.ceil_mode and to.opset < 22 and any(map(_is_overcounted, self.axes(spatial))):
            raise ValueError(
                f"{self.name}: before opset 22, ONNX infers too many windows for ceil_mode with these pads"
            )
        pads = written_pads(self.pads, spatial, self.kernel_shape, self.strides, self.dilations)
        return {**{name: value for name, value in self.attributes().items() if name != "pads"}, **pads}

    @classmethod
    def fields_of(cls, node: NodeView) -> dict[str, Any]:
        """The fields that an ONNX node of any pool has."""
        x, kernel = node.operands[0], tuple(node.attributes["kernel_shape"])
        assert x is not None
        if len(kernel) != x.rank - 2:
            raise ValueError(f"kernel_shape {kernel} does not fit the spatial axes of {x.type}")
        ones = (1,) * len(kernel)
        strides, dilations = (tuple(node.attributes.get(name) or ones) for name in ("strides", "dilations"))
        return {
            "kernel_shape": kernel,
            "strides": strides,
            "pads": read_pads(node, x.shape[2:], kernel, strides, dilations),
            "dilations": dilations,
            "ceil_mode": node.attributes.get("ceil_mode", 0),
        }


def _is_overcounted(axis: Axis) -> bool:
    """Whether a window of ``ceil_mode`` was left out because it would begin behind the last element."""
    padding = axis.before + axis.after + axis.stride - 1
    count = window_count(axis.size, extent(axis.kernel, axis.dilation), axis.stride, padding)
    return isinstance(count, int) and count != axis.count
