"""Activations in pieces: straight lines, and an exponential (ONNX opset 22)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from lora_graph.ir.types import TensorType
from lora_graph.ir.value import Value, apply
from lora_graph.ops.activation import Activation
from lora_graph.ops.arithmetic import Min
from lora_graph.ops.base import Cotangents, store
from lora_graph.ops.select import clip, where


@dataclass(frozen=True, eq=False)
class HardSigmoid(Activation):
    """y = min(max(αx + β, 0), 1)."""

    alpha: float = 0.2
    beta: float = 0.5

    def decompose(self, x: Any) -> Any:
        return clip(x * self.alpha + self.beta, 0.0, 1.0)

    def evaluate(self, *operands: Any, out: Any = None) -> Any:
        (x,) = operands
        y = np.multiply(x, x.dtype.type(self.alpha), out=out)
        y = np.add(y, x.dtype.type(self.beta), out=out)
        return np.asarray(np.clip(y, 0, 1, out=out))


class HardSwish(Activation):
    """y = x · min(max(x/6 + ½, 0), 1)  (Howard et al., 2019)."""

    def decompose(self, x: Any) -> Any:
        return x * apply(HardSigmoid(1 / 6, 0.5), x)

    def evaluate(self, *operands: Any, out: Any = None) -> Any:
        (x,) = operands
        return np.asarray(np.multiply(x, HardSigmoid(1 / 6, 0.5).evaluate(x), out=out))


@dataclass(frozen=True, eq=False)
class Selu(Activation):
    """y = γx where x > 0, else γα(eˣ - 1)  (Klambauer et al., 2017)."""

    alpha: float = 1.6732632
    gamma: float = 1.050701

    def decompose(self, x: Any) -> Any:
        return where(x > 0, x, (apply(Min(), x, 0.0).exp() - 1.0) * self.alpha) * self.gamma

    def evaluate(self, *operands: Any, out: Any = None) -> Any:
        (x,) = operands
        negative = np.expm1(np.minimum(x, x.dtype.type(0))) * x.dtype.type(self.alpha)
        return np.asarray(np.multiply(np.where(x > 0, x, negative), x.dtype.type(self.gamma), out=out))

    def pullback(self, cotangent: Value, result: Value, *operands: Value) -> Cotangents:
        (x,) = operands
        return (where(x > 0, cotangent * self.gamma, cotangent * (result + self.alpha * self.gamma)),)


class PRelu(Activation):
    """y = x where x ≥ 0, else slope · x, for a slope that broadcasts to x  (He et al., 2015)."""

    arity: ClassVar[int] = 2

    def infer(self, *operands: TensorType) -> TensorType:
        unified = self.unify(operands)
        if unified != operands[0]:
            raise ValueError(f"PRelu: the slope {operands[1]} does not broadcast to {operands[0]}")
        return unified

    def decompose(self, *operands: Any) -> Any:
        x, slope = operands
        return where(x < 0, x * slope, x)

    def evaluate(self, *operands: Any, out: Any = None) -> Any:
        x, slope = operands
        return store(np.where(x < 0, x * slope, x), out)


def hard_sigmoid(x: Any, alpha: float = 0.2, beta: float = 0.5) -> Any:
    """min(max(αx + β, 0), 1)."""
    return apply(HardSigmoid(float(alpha), float(beta)), x)


def hard_swish(x: Any) -> Any:
    """x · min(max(x/6 + ½, 0), 1)."""
    return apply(HardSwish(), x)


def selu(x: Any, alpha: float = 1.6732632, gamma: float = 1.050701) -> Any:
    """γx where x > 0, else γα(eˣ - 1)."""
    return apply(Selu(float(alpha), float(gamma)), x)


def prelu(x: Any, slope: Any) -> Any:
    """x where x ≥ 0, else slope · x."""
    return apply(PRelu(), x, slope)
