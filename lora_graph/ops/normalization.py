"""Normalization over features, and over the batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from lora_graph.ir.op import NodeView
from lora_graph.ir.types import TensorType, broadcast, meet, normalize_axis
from lora_graph.ir.value import Value, apply
from lora_graph.ops.base import Cotangents, Varying, store, unbroadcast
from lora_graph.ops.fused import Fused
from lora_graph.ops.shape import unsqueeze
from lora_graph.ops.squares import ReduceVariance


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
        along = (scaled * normalized).mean(axis=axes, keepdims=True)
        of_x = (scaled - scaled.mean(axis=axes, keepdims=True) - normalized * along) / deviation
        parts: list[Value | None] = [of_x, unbroadcast(cotangent * normalized, scale.shape)]
        return (*parts, *(unbroadcast(cotangent, bias.shape) for bias in operands[2:]))

    @classmethod
    def read(cls, node: NodeView) -> Value | tuple[Value, ...]:
        """ONNX can ask for μ and 1/√(σ² + ε), too."""
        x, *rest = node.operands
        assert x is not None
        op = cls(node.attributes.get("axis", -1), node.attributes.get("epsilon", 1e-5))
        y: Value = apply(op, x, *(operand for operand in rest if operand is not None))
        return y, x.mean(axis=op._axes(x.rank), keepdims=True), 1.0 / op._normalized(x)[1]


@dataclass(frozen=True, eq=False)
class RMSNormalization(Fused):
    """y = x / √(mean x² + ε) · scale, with the mean over the axes from ``axis`` on, for a scale that broadcasts to x.

    ONNX opset 23; Zhang & Sennrich, 2019.
    """

    axis: int = -1
    epsilon: float = 1e-5
    writes_out: ClassVar[bool] = True

    def infer(self, *operands: TensorType) -> TensorType:
        x, scale = operands
        normalize_axis(self.axis, x.rank, self.name)
        if not x.is_float or scale.dtype != x.dtype:
            raise TypeError(f"{self.name}: operands must be floats of one dtype, got {x} and {scale}")
        if broadcast(x.shape, scale.shape, self.name) != x.shape:
            raise ValueError(f"{self.name}: the scale {scale} does not broadcast to {x}")
        return x

    def _axes(self, rank: int) -> tuple[int, ...]:
        return tuple(range(self.axis % rank - rank, 0))

    def _deviation(self, x: Value) -> Value:
        return ((x * x).mean(axis=self._axes(x.rank), keepdims=True) + self.epsilon).sqrt()

    def decompose(self, *operands: Any) -> Any:
        x, scale = operands
        return x / self._deviation(x) * scale

    def evaluate(self, *operands: Any, out: Any = None) -> Any:
        x, scale = operands
        wide = x.astype(np.float32) if x.dtype == np.float16 else x
        y = np.multiply(wide, wide, out=out if wide is x else None)
        deviation = np.sqrt(y.mean(self._axes(x.ndim), keepdims=True) + wide.dtype.type(self.epsilon))
        np.divide(wide, deviation, out=y)
        y *= scale
        return y if wide is x else store(y.astype(x.dtype), out)

    def pullback(self, cotangent: Value, result: Value, *operands: Value) -> Cotangents:
        x, scale = operands
        deviation = self._deviation(x)
        scaled, normalized = cotangent * scale, x / deviation
        along = (scaled * normalized).mean(axis=self._axes(x.rank), keepdims=True)
        return (scaled - normalized * along) / deviation, unbroadcast(cotangent * normalized, scale.shape)


@dataclass(frozen=True, eq=False)
class BatchNormalization(Fused):
    """y = (x - mean) / √(var + ε) · scale + bias for x ``[batch, channels, *spatial]``, all others ``[channels]``.

    ONNX opset 15, inference; Ioffe & Szegedy, 2015. A node in training mode is read as this op on the mean and the
    variance of the batch, and the running ones as old · momentum + new · (1 - momentum).
    """

    epsilon: float = 1e-5
    writes_out: ClassVar[bool] = True

    def infer(self, *operands: TensorType) -> TensorType:
        x = operands[0]
        if not x.is_float or any(operand.dtype != x.dtype for operand in operands):
            raise TypeError(f"{self.name}: operands must be floats of one dtype, got {', '.join(map(str, operands))}")
        if x.rank < 2:
            raise ValueError(f"{self.name}: x must have a batch and a channel axis, got {x}")
        for name, operand in zip(("scale", "bias", "mean", "var"), operands[1:], strict=True):
            if operand.rank != 1:
                raise ValueError(f"{self.name}: {name} must have one axis, got {operand}")
            meet(operand.shape[0], x.shape[1], f"{self.name}: {name} {operand} for the channels of {x}")
        return x

    def decompose(self, *operands: Any) -> Any:
        x = operands[0]
        scale, bias, mean, var = (self._per_channel(operand, x) for operand in operands[1:])
        return (x - mean) / (var + self.epsilon).sqrt() * scale + bias

    def _per_channel(self, operand: Value, x: Value) -> Value:
        return operand.reshape((x.shape[1], *(1,) * (x.rank - 2)))

    def evaluate(self, *operands: Any, out: Any = None) -> Any:
        x = operands[0]
        wide = [np.asarray(operand, np.float32) if x.dtype == np.float16 else operand for operand in operands]
        scale, bias, mean, var = (operand.reshape((-1,) + (1,) * (x.ndim - 2)) for operand in wide[1:])
        y = np.subtract(wide[0], mean, out=out if wide[0] is x else None)
        y *= scale / np.sqrt(var + var.dtype.type(self.epsilon))
        y += bias
        return y if wide[0] is x else store(y.astype(x.dtype), out)

    def pullback(self, cotangent: Value, result: Value, *operands: Value) -> Cotangents:
        x = operands[0]
        axes = (0, *range(2, x.rank))
        scale, mean, var = (unsqueeze(operands[i], axes) for i in (1, 3, 4))
        deviation = (var + self.epsilon).sqrt()
        scaled = cotangent * (scale / deviation)
        total = cotangent.sum(axis=axes, keepdims=True)
        along = (cotangent * (x - mean)).sum(axis=axes, keepdims=True)
        parts = (along / deviation, total, -total * scale / deviation, along * scale / deviation**3 * -0.5)
        return (scaled, *(part.reshape(operand.shape) for part, operand in zip(parts, operands[1:], strict=True)))

    def is_linear(self, varying: Varying, operands: tuple[TensorType, ...], lead: int) -> bool:
        return varying == (False, True, True, False, False) and not lead

    @classmethod
    def read(cls, node: NodeView) -> Value | tuple[Value, ...]:
        x, *others = node.operands
        op = cls(node.attributes.get("epsilon", 1e-5))
        momentum = node.attributes.get("momentum", 0.9)
        if not node.attributes.get("training_mode"):
            y: Value = apply(op, x, *others)
            return y
        scale, bias, *running = others
        assert x is not None
        batch = batch_statistics(x)
        moved = [old * momentum + new * (1 - momentum) for old, new in zip(running, batch, strict=True)]
        return apply(op, x, scale, bias, *batch), *moved


def batch_statistics(x: Value) -> tuple[Value, Value]:
    """The mean and the (population) variance of each channel of ``[batch, channels, *spatial]``."""
    axes = (0, *range(2, x.rank))
    return x.mean(axis=axes), apply(ReduceVariance(axes), x)


def batch_normalization(x: Value, scale: Value, bias: Value, mean: Value, var: Value, epsilon: float = 1e-5) -> Value:
    """(x - mean) / √(var + ε) · scale + bias for each channel of ``[batch, channels, *spatial]``."""
    return apply(BatchNormalization(float(epsilon)), x, scale, bias, mean, var)


def layer_normalization(x: Value, scale: Value, bias: Value | None = None, epsilon: float = 1e-5) -> Value:
    """LayerNormalization over the last axis."""
    operands = (x, scale) if bias is None else (x, scale, bias)
    return apply(LayerNormalization(-1, float(epsilon)), *operands)


def rms_normalization(x: Value, scale: Value, epsilon: float = 1e-5) -> Value:
    """RMSNormalization over the last axis."""
    return apply(RMSNormalization(-1, float(epsilon)), x, scale)
