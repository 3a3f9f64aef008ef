"""Normalization over features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from lora_graph.ir.dims import product
from lora_graph.ir.leaves import size_of
from lora_graph.ir.types import TensorType, normalize_axis
from lora_graph.ir.value import Value, apply
from lora_graph.ops.base import Cotangents, store, unbroadcast
from lora_graph.ops.fused import Fused


@dataclass(frozen=True, eq=False)
class LayerNormalization(Fused):
    """y = (x - μ) / √(σ² + ε) · scale + bias, with μ and σ² over the axes from ``axis`` on.

    ONNX opset 17; Ba et al., 2016.
    """

    axis: int = -1
    epsilon: float = 1e-5
    writes_out: ClassVar[bool] = True

    def infer(self, *operands: TensorType) -> TensorType:
        x = operands[0]
        normalize_axis(self.axis, x.rank, self.name)
        if not x.is_float or any(operand.dtype != x.dtype for operand in operands):
            raise TypeError(f"{self.name}: operands must be floats of one dtype, got {', '.join(map(str, operands))}")
        for operand in operands[1:]:
            if operand.shape != x.shape[self.axis % x.rank :]:
                raise ValueError(f"LayerNormalization: {operand} does not fit the normalized axes of {x}")
        return x

    def _axes(self, rank: int) -> tuple[int, ...]:
        return tuple(range(self.axis % rank - rank, 0))

    def decompose(self, *operands: Any) -> Any:
        x = operands[0]
        y = self._normalized(x)[0] * operands[1]
        return y + operands[2] if len(operands) > 2 else y

    def _normalized(self, x: Value) -> tuple[Value, Value]:
        axes = self._axes(x.rank)
        centred = x - x.mean(axis=axes, keepdims=True)
        deviation = ((centred * centred).mean(axis=axes, keepdims=True) + self.epsilon).sqrt()
        return centred / deviation, deviation

    def evaluate(self, *operands: Any, out: Any = None) -> Any:
        x = operands[0]
        axes = self._axes(x.ndim)
        wide = x.astype(np.float32) if x.dtype == np.float16 else x
        y = np.subtract(wide, wide.mean(axes, keepdims=True), out=out if wide is x else None)
        variance = np.mean(y * y, axes, keepdims=True)
        y /= np.sqrt(variance + wide.dtype.type(self.epsilon))
        y *= operands[1]
        if len(operands) > 2:
            y += operands[2]
        return y if wide is x else store(y.astype(x.dtype), out)

    def pullback(self, cotangent: Value, result: Value, *operands: Value) -> Cotangents:
        x, scale = operands[:2]
        axes = self._axes(x.rank)
        normalized, deviation = self._normalized(x)
        scaled = cotangent * scale
        count = size_of(product([x.shape[axis] for axis in axes]), x.dtype)
        along = (scaled * normalized).sum(axis=axes, keepdims=True)
        of_x = (scaled - (scaled.sum(axis=axes, keepdims=True) + normalized * along) / count) / deviation
        parts: list[Value | None] = [of_x, unbroadcast(cotangent * normalized, scale.shape)]
        return (*parts, *(unbroadcast(cotangent, bias.shape) for bias in operands[2:]))

    def flops(self, result: Any, *operands: TensorType) -> Any:
        return operands[0].size * 8


def layer_normalization(x: Value, scale: Value, bias: Value | None = None, epsilon: float = 1e-5) -> Value:
    """LayerNormalization over the last axis."""
    operands = (x, scale) if bias is None else (x, scale, bias)
    return apply(LayerNormalization(-1, float(epsilon)), *operands)
