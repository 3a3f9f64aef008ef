"""Sums of squares along axes, and their roots (ONNX opset 18)."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from lora_graph.ir.types import Array, TensorType
from lora_graph.ir.value import Value, apply
from lora_graph.ops.base import Cotangents
from lora_graph.ops.fused import Fused
from lora_graph.ops.reduce import ReduceSum, Reduction
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
