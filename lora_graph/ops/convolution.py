"""Convolutions over any number of spatial axes, and their transposes (Dumoulin and Visin, 2016)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from lora_graph.ir import dims
from lora_graph.ir.dims import Dim, Shape
from lora_graph.ir.op import Lowering, NodeView, Op
from lora_graph.ir.types import TensorType, meet, show
from lora_graph.ir.value import Value, apply
from lora_graph.ops import convolution_parts as parts
from lora_graph.ops import convolve, windows
from lora_graph.ops.base import Cotangents
from lora_graph.ops.convolution_weight import ConvWeightGradient
from lora_graph.ops.shape import with_one_batch_axis


@dataclass(frozen=True, eq=False)
class Conv(Op):
    """y[n, o, t] = Σ x[n, c, t · stride + k · dilation - pad] w[o, c, k] + bias[o], with zeros outside of x.

    x ``[N, C, *S]``, w ``[O, C/group, *K]``, bias ``[O]`` if there is one, y ``[N, O, *T]``: channels are cut in
    ``group`` parts, each of which is convolved on its own. Pads are all begins, then all ends. float16 is summed in
    float32. ONNX opset 11, where ``auto_pad`` becomes pads as it is read.
    """

    strides: tuple[int, ...]
    pads: tuple[Dim, ...]
    dilations: tuple[int, ...]
    group: int = 1
    writes_out: ClassVar[bool] = True

    def __post_init__(self) -> None:
        windows.check_windows(self.name, self.strides, self.pads, self.dilations)
        parts.check_group(self.name, self.group)

    def infer(self, *operands: TensorType) -> TensorType:
        parts.check_operands(self.name, operands, len(self.strides))
        x, w = operands[:2]
        parts.check_divides(self.name, "the outputs", w.shape[0], self.group)
        what = f"{self.name} of {x} and {w}"
        channels = w.shape[1] * self.group
        meet(x.shape[1], channels, f"{what}: x must have group ({self.group}) times as many channels as w")
        parts.check_bias(self.name, w.shape[0], operands)
        counts = windows.window_counts(what, x.shape[2:], w.shape[2:], self.strides, self.dilations, self.pads)
        return x.with_shape((x.shape[0], w.shape[0], *counts))

    def evaluate(self, *operands: Any, out: Any = None) -> Any:
        x, w, *bias = parts.wide(operands)
        windows.window_counts(self.name, x.shape[2:], w.shape[2:], self.strides, self.dilations, self.pads)
        pads: Any = self.pads
        own = parts.writable(out, x.dtype)
        y = convolve.convolve(x, w, self.strides, pads, self.dilations, self.group, own)
        return parts.finished(parts.add_bias(y, *bias), operands[0].dtype, out)

    def pullback(self, cotangent: Value, result: Value, *operands: Value) -> Cotangents:
        x, w = operands[:2]
        geometry = self.strides, self.pads, self.dilations
        reached = windows.covered(cotangent.shape[2:], w.shape[2:], *geometry)
        beyond = tuple(size - end for size, end in zip(x.shape[2:], reached, strict=True))
        of_x = apply(ConvTranspose(*geometry, beyond, self.group), cotangent, w)
        of_w = apply(ConvWeightGradient(w.shape[2:], *geometry, self.group), x, cotangent)
        return of_x, of_w, *(parts.bias_gradient(cotangent) for _ in operands[2:])

    def flops(self, result: Any, *operands: TensorType) -> Any:
        return result.size * dims.product(operands[1].shape[1:]) * 2 + parts.bias_flops(result, operands)

    def lower(self, to: Lowering, *operands: str) -> str:
        spatial, kernel = (to.type(operand).shape[2:] for operand in operands[:2])
        pads, steps = self.pads, (self.strides, self.dilations)
        mode = windows.same_mode(pads, spatial, kernel, *steps)
        # ONNX Runtime has no auto_pad for dilated windows
        if not all(isinstance(pad, int) for pad in pads) and (mode is None or max(self.dilations) > 1):
            widths = to.shape(parts.spatial_widths(pads))
            operands = (to.node("Pad", [operands[0], widths], {"mode": "constant"}), *operands[1:])
            pads = (0,) * len(pads)
        written = windows.written_pads(pads, spatial, kernel, *steps)
        return to.node(self.name, operands, {**parts.written_geometry(kernel, *steps, self.group), **written})

    @classmethod
    def read(cls, node: NodeView) -> Value:
        operands, strides, dilations, group = parts.read_geometry(node)
        spatial, kernel = (operand.shape[2:] for operand in operands[:2])
        pads = windows.read_pads(node, spatial, kernel, strides, dilations)
        return apply(cls(strides, pads, dilations, group), *operands)


@dataclass(frozen=True, eq=False)
class ConvTranspose(Op):
    """y[n, o, t · stride + k · dilation - pad] = Σ x[n, c, t] w[c, o, k] + bias[o]: the transpose of Conv in x.

    x ``[N, C, *S]``, w ``[C, O/group, *K]``, bias ``[O]`` if there is one. Along each axis y has
    (S - 1) · stride + (K - 1) · dilation + 1 + output_padding elements, less the pads. float16 is summed in float32.
    ONNX opset 11, where ``auto_pad`` and ``output_shape`` become pads as they are read; as in ONNX Runtime,
    output_padding is less than the stride, even where the dilation is larger.
    """

    strides: tuple[int, ...]
    pads: tuple[Dim, ...]
    dilations: tuple[int, ...]
    output_padding: tuple[Dim, ...]
    group: int = 1
    writes_out: ClassVar[bool] = True

    def __post_init__(self) -> None:
        windows.check_windows(self.name, self.strides, self.pads, self.dilations)
        parts.check_group(self.name, self.group)
        given, axes = self.output_padding, len(self.strides)
        known = [(n, stride) for n, stride in zip(given, self.strides, strict=False) if isinstance(n, int)]
        if len(given) != axes or any(not 0 <= n < stride for n, stride in known):
            raise ValueError(
                f"{self.name}: output_padding must be {axes} ints from 0, each less than the stride of its axis "
                f"({show(self.strides)}), got {show(given)}"
            )

    def infer(self, *operands: TensorType) -> TensorType:
        parts.check_operands(self.name, operands, len(self.strides))
        x, w = operands[:2]
        parts.check_divides(self.name, "the channels", w.shape[0], self.group)
        what = f"{self.name} of {x} and {w}"
        meet(x.shape[1], w.shape[0], f"{what}: w must begin with the channels of x")
        outputs = w.shape[1] * self.group
        parts.check_bias(self.name, outputs, operands)
        return x.with_shape((x.shape[0], outputs, *self._sizes(what, x.shape[2:], w.shape[2:])))

    def _sizes(self, what: str, spatial: Shape, kernel: Shape) -> Shape:
        reached = windows.covered(spatial, kernel, self.strides, self.pads, self.dilations)
        sizes = tuple(end + more for end, more in zip(reached, self.output_padding, strict=True))
        if any(isinstance(size, int) and size < 0 for size in sizes):
            raise ValueError(f"{what}: pads {show(self.pads)} cut off more than there is, down to {show(sizes)}")
        return sizes

    def evaluate(self, *operands: Any, out: Any = None) -> Any:
        x, w, *bias = parts.wide(operands)
        sizes: Any = self._sizes(self.name, x.shape[2:], w.shape[2:])
        pads: Any = self.pads
        own = parts.writable(out, x.dtype)
        y = convolve.scatter(x, w, sizes, self.strides, pads, self.dilations, self.group, own)
        return parts.finished(parts.add_bias(y, *bias), operands[0].dtype, out)

    def pullback(self, cotangent: Value, result: Value, *operands: Value) -> Cotangents:
        x, w = operands[:2]
        geometry = self.strides, self.pads, self.dilations
        of_x = apply(Conv(*geometry, self.group), cotangent, w)
        of_w = apply(ConvWeightGradient(w.shape[2:], *geometry, self.group), cotangent, x)
        return of_x, of_w, *(parts.bias_gradient(cotangent) for _ in operands[2:])

    def flops(self, result: Any, *operands: TensorType) -> Any:
        return operands[0].size * dims.product(operands[1].shape[1:]) * 2 + parts.bias_flops(result, operands)

    def lower(self, to: Lowering, *operands: str) -> str:
        kernel, axes = to.type(operands[1]).shape[2:], len(self.strides)
        geometry = parts.written_geometry(kernel, self.strides, self.dilations, self.group)
        if all(isinstance(width, int) for width in (*self.pads, *self.output_padding)):
            return to.node(self.name, operands, {**geometry, "pads": self.pads, "output_padding": self.output_padding})
        # ONNX takes ints, so the op itself cuts and adds nothing; and a bias belongs where only zeros are added, too
        y = to.node(self.name, operands[:2], {**geometry, "pads": (0,) * (2 * axes)})
        ends = [more - pad for more, pad in zip(self.output_padding, self.pads[axes:], strict=True)]
        widths = parts.spatial_widths((*(-pad for pad in self.pads[:axes]), *ends))
        y = to.node("Pad", [y, to.shape(widths)], {"mode": "constant"})
        for bias in operands[2:]:
            column = to.node("Unsqueeze", [bias, to.constant(range(1, axes + 1), np.int64)])
            y = to.node("Add", [y, column])
        return y

    @classmethod
    def read(cls, node: NodeView) -> Value:
        operands, strides, dilations, group = parts.read_geometry(node)
        spatial, kernel = (operand.shape[2:] for operand in operands[:2])
        padding = tuple(node.attributes.get("output_padding", (0,) * len(strides)))
        mode, wanted = (node.attributes.get(name) for name in ("auto_pad", "output_shape"))
        if wanted is None and mode not in ("SAME_UPPER", "SAME_LOWER"):
            pads = windows.read_pads(node, spatial, kernel, strides, dilations)
            return apply(cls(strides, pads, dilations, padding, group), *operands)
        node.attributes.get("pads")  # which a wanted size overrules
        reached = windows.covered(spatial, kernel, strides, (0,) * (2 * len(strides)), dilations)
        # auto_pad wants stride elements for each of x, and where windows do not reach that far, no pads
        sizes = wanted or [size * stride for size, stride in zip(spatial, strides, strict=True)]
        totals = [end + more - size for end, more, size in zip(reached, padding, sizes, strict=True)]
        if wanted is None:
            totals = [dims.maximum(total, 0) for total in totals]
        pads = windows.shared(totals, upper=mode == "SAME_UPPER")
        begins, ends = pads[: len(strides)], pads[len(strides) :]
        if any(isinstance(pad, int) and pad < 0 for pad in begins):
            raise ValueError(f"output_shape must be at most {show(reached)} plus output_padding, got {show(sizes)}")
        # what a wanted size has beyond the last window is more padding of the result
        missing = [-pad if isinstance(pad, int) and pad < 0 else 0 for pad in ends]
        padding = tuple(more + short for more, short in zip(padding, missing, strict=True))
        pads = (*begins, *(end + short for end, short in zip(ends, missing, strict=True)))
        return apply(cls(strides, pads, dilations, padding, group), *operands)


def conv(
    x: Value,
    w: Value,
    b: Value | None = None,
    *,
    strides: int | Sequence[int] = 1,
    pads: int | Sequence[Dim] = 0,
    dilations: int | Sequence[int] = 1,
    group: int = 1,
) -> Value:
    """The convolution of x ``[N, C, *S]`` with w ``[O, C/group, *K]``, plus b ``[O]``; see :class:`Conv`.

    Attributes are one int, or one for each spatial axis; pads may also be all begins, then all ends. There may be no
    batch axis N, or several.
    """
    axes = w.rank - 2
    op, rest = Conv(*_geometry(axes, strides, pads, dilations), group), () if b is None else (b,)
    return with_one_batch_axis(x, axes + 1, lambda images: apply(op, images, w, *rest))


def conv_transpose(
    x: Value,
    w: Value,
    b: Value | None = None,
    *,
    strides: int | Sequence[int] = 1,
    pads: int | Sequence[Dim] = 0,
    dilations: int | Sequence[int] = 1,
    output_padding: int | Sequence[int] = 0,
    group: int = 1,
) -> Value:
    """The transposed convolution of x ``[N, C, *S]`` with w ``[C, O/group, *K]``, plus b ``[O]``.

    Attributes and batch axes are those of :func:`conv`; see :class:`ConvTranspose`.
    """
    axes = w.rank - 2
    more = windows.per_axis("output_padding", output_padding, axes, least=0)
    op = ConvTranspose(*_geometry(axes, strides, pads, dilations), more, group)
    rest = () if b is None else (b,)
    return with_one_batch_axis(x, axes + 1, lambda images: apply(op, images, w, *rest))


def conv_weight_gradient(
    x: Value,
    y: Value,
    kernel: Sequence[int],
    *,
    strides: int | Sequence[int] = 1,
    pads: int | Sequence[Dim] = 0,
    dilations: int | Sequence[int] = 1,
    group: int = 1,
) -> Value:
    """What :func:`conv` of x ``[N, C, *S]`` passes back to its ``kernel``, given the cotangent y ``[N, O, *T]``."""
    return apply(ConvWeightGradient(tuple(kernel), *_geometry(x.rank - 2, strides, pads, dilations), group), x, y)


def _geometry(
    axes: int, strides: int | Sequence[int], pads: int | Sequence[Dim], dilations: int | Sequence[int]
) -> tuple[tuple[int, ...], tuple[Dim, ...], tuple[int, ...]]:
    return (
        windows.per_axis("strides", strides, axes),
        windows.both_ends("pads", pads, axes),
        windows.per_axis("dilations", dilations, axes),
    )
