"""Sums of squares along axes, their roots (ONNX opset 18), and variances."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from lora_graph.ir.leaves import size_of
from lora_graph.ir.types import Array, TensorType
from lora_graph.ir.value import Value, apply
from lora_graph.ops.base import Cotangents
from lora_graph.ops.fused import Fused
from lora_graph.ops.reduce import ReduceMean, ReduceSum, Reduction
from lora_graph.ops.select import where


class OfSquares(Reduction, Fused, abstract=True):
    """A reduction that is a name for others."""

    def flops(self, result: Any, *operands: TensorType) -> Any:
        return Fused.flops(self, result, *operands)


class ReduceSumSquare(OfSquares):
    """y = Σ x²."""

    kinds: ClassVar[str] = "f"

    def decompose(self, *operands: Any) -> Any:
        (x,) = operands
        return apply(ReduceSum(self.axes, self.keepdims), x * x)

    def along(self, x: Array, axes: tuple[int, ...], keepdims: bool) -> Any:
        wide = x.astype(np.float32) if x.dtype == np.float16 else x
        if len(axes) == x.ndim and wide.flags.c_contiguous:
            total = np.dot(wide.reshape(-1), wide.reshape(-1))  # needs no memory for the squares
            return total.reshape((1,) * x.ndim if keepdims else ())
        return np.sum(wide * wide, axis=axes, keepdims=keepdims)

    @classmethod
    def of_no_axes(cls, x: Value) -> Value:
        return x * x


class ReduceL2(OfSquares):
    """y = √Σ x², with derivative 0 where it is 0."""

    kinds: ClassVar[str] = "f"

    def decompose(self, *operands: Any) -> Any:
        return apply(ReduceSumSquare(self.axes, self.keepdims), *operands).sqrt()

    def along(self, x: Array, axes: tuple[int, ...], keepdims: bool) -> Any:
        wide = x.astype(np.float32) if x.dtype == np.float16 else x
        return np.sqrt(np.sum(wide * wide, axis=axes, keepdims=keepdims))

    def pullback(self, cotangent: Value, result: Value, *operands: Value) -> Cotangents:
        (x,) = operands
        norm = self.restore(result, x)
        return (x * (self.restore(cotangent, x) / where(norm.equal(0), 1, norm)),)

    @classmethod
    def of_no_axes(cls, x: Value) -> Value:
        return x.abs()


class ReduceVariance(Reduction, Fused):
    """y = mean (x - mean x)², NaN where there is nothing to average.

    ONNX has no such op: it is written as what it stands for. The derivative by the inner mean is 0 and left out.
    """

    kinds: ClassVar[str] = "f"

    def decompose(self, *operands: Any) -> Any:
        (x,) = operands
        away = x - x.mean(self.axes, keepdims=True)
        return apply(ReduceMean(self.axes, self.keepdims), away * away)

    def along(self, x: Array, axes: tuple[int, ...], keepdims: bool) -> Any:
        wide = x.astype(np.float32) if x.dtype == np.float16 else x
        away = wide - ReduceMean().along(wide, axes, True)
        np.multiply(away, away, out=away)
        return ReduceMean().along(away, axes, keepdims)

    def pullback(self, cotangent: Value, result: Value, *operands: Value) -> Cotangents:
        (x,) = operands
        slope = cotangent * 2.0 / size_of(self.count(x.type), x.dtype)
        mean = self.restore(x.mean(self.axes, keepdims=bool(self.keepdims)), x)
        return ((x - mean) * self.restore(slope, x),)

    def flops(self, result: Any, *operands: TensorType) -> Any:
        return operands[0].size * 4
