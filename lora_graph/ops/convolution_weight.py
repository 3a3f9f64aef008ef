"""The gradient of a convolution in its kernel, as an op: a convolution with the batch and the channels exchanged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from lora_graph.ir import dims
from lora_graph.ir.dims import Dim, Shape
from lora_graph.ir.op import OPS
from lora_graph.ir.types import TensorType, meet, show
from lora_graph.ir.value import Value, apply
from lora_graph.ops import convolve
from lora_graph.ops.base import Cotangents
from lora_graph.ops.convolution_parts import check_divides, check_group, check_operands, finished, wide
from lora_graph.ops.fused import Fused
from lora_graph.ops.slice import slice_
from lora_graph.ops.windows import check_windows, covered, window_counts


@dataclass(frozen=True, eq=False)
class ConvWeightGradient(Fused):
    """w[o, c, k] = Σ x[n, c, t · stride + k · dilation - pad] y[n, o, t]: the transpose of Conv in its kernel.

    x ``[N, C, *S]``, y ``[N, O, *T]`` with a position for each window of x, w ``[O, C/group, *kernel]``.
    ONNX has no such op: it is written as a Conv of x with y for a kernel.
    """

    kernel: Shape
    strides: tuple[int, ...]
    pads: tuple[Dim, ...]
    dilations: tuple[int, ...]
    group: int = 1
    writes_out: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_windows(self.name, self.strides, self.pads, self.dilations)
        check_group(self.name, self.group)

    def infer(self, *operands: TensorType) -> TensorType:
        x, y = operands
        check_operands(self.name, operands, len(self.strides))
        check_divides(self.name, "the channels of x", x.shape[1], self.group)
        check_divides(self.name, "the channels of y", y.shape[1], self.group)
        what = f"{self.name} of {x} and {y}"
        meet(x.shape[0], y.shape[0], what)
        counts = window_counts(what, x.shape[2:], self.kernel, self.strides, self.dilations, self.pads)
        for positions, count in zip(y.shape[2:], counts, strict=True):
            meet(positions, count, f"{what}: y must have a position for each of the {show(counts)} windows of x")
        return x.with_shape((y.shape[1], dims.divide(x.shape[1], self.group), *self.kernel))

    def decompose(self, *operands: Any) -> Any:
        x, y = operands
        samples, channels, *spatial = x.shape
        group, part, axes = self.group, dims.divide(channels, self.group), len(self.kernel)
        turned = x.reshape(samples, group, part, *spatial).transpose(2, 1, 0, *range(3, axes + 3))
        turned = turned.reshape(part, group * samples, *spatial)
        op = OPS["Conv"](strides=self.dilations, pads=self.pads, dilations=self.strides, group=group)
        w = apply(op, turned, y.swapaxes(0, 1))
        # strides may leave room for more elements than the kernel has
        w = slice_(w, (0,) * axes, self.kernel, range(2, axes + 2))
        return w.reshape(part, y.shape[1], *self.kernel).swapaxes(0, 1)

    def evaluate(self, *operands: Any, out: Any = None) -> Any:
        x, y = wide(operands)
        geometry: Any = self.kernel, self.strides, self.pads, self.dilations, self.group
        return finished(convolve.weight_gradient(x, y, *geometry), operands[0].dtype, out)

    def pullback(self, cotangent: Value, result: Value, *operands: Value) -> Cotangents:
        x, y = operands
        geometry: Any = self.strides, self.pads, self.dilations
        reached = covered(y.shape[2:], self.kernel, *geometry)
        beyond: Any = tuple(size - end for size, end in zip(x.shape[2:], reached, strict=True))
        of_x = apply(OPS["ConvTranspose"](*geometry, beyond, self.group), y, cotangent)
        of_y = apply(OPS["Conv"](*geometry, self.group), x, cotangent)
        return of_x, of_y

    def flops(self, result: Any, *operands: TensorType) -> Any:
        return operands[1].size * dims.product(result.shape[1:]) * 2
