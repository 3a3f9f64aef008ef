"""Activation functions. Each is a fused op: a name for elementary arithmetic with a stable NumPy kernel."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from lora_graph.ir.types import TensorType
from lora_graph.ir.value import Value, apply
from lora_graph.ops.arithmetic import Max, Min
from lora_graph.ops.base import Cotangents, Elementwise, store
from lora_graph.ops.error_function import erf_kernel
from lora_graph.ops.fused import Fused
from lora_graph.ops.reduce import softmax
from lora_graph.ops.select import where

LINEAR = 2 * math.sqrt(2 / math.pi)
CUBIC = 0.044715 * LINEAR
"""Φ(x) ≈ σ(LINEAR x + CUBIC x³)  (Hendrycks & Gimpel, 2016)."""
LOG_DENSITY = -math.log(2 * math.pi) / 2
"""φ(x) = exp(LOG_DENSITY - x²/2)."""


class Activation(Fused, Elementwise, abstract=True):
    """y = f(x) element by element for floats."""

    kinds: ClassVar[str] = "f"

    def infer(self, *operands: TensorType) -> TensorType:
        return self.unify(operands)

    def spelled(self, x: Value) -> Value:
        """What stands for it in a graph that has the costly part of its gradient, too: with the same costly part."""
        spelled: Value = self.decompose(x)
        return spelled


class Relu(Elementwise):
    """y = max(x, 0), with derivative 0 at 0."""

    def evaluate(self, *operands: Any, out: Any = None) -> Any:
        (x,) = operands
        # NumPy compares with a row of zeros in half the time it takes with a single zero
        zero = np.zeros(x.shape[-1:], x.dtype) if x.shape[-1:] > (63,) else x.dtype.type(0)
        return np.asarray(np.maximum(x, zero, out=out))

    def pullback(self, cotangent: Value, result: Value, *operands: Value) -> Cotangents:
        return (cotangent * (result > 0).astype(result.dtype),)


class Sigmoid(Elementwise):
    """y = 1 / (1 + e⁻ˣ)."""

    kinds: ClassVar[str] = "f"

    def evaluate(self, *operands: Any, out: Any = None) -> Any:
        (x,) = operands
        y = np.empty_like(x) if out is None else out
        np.negative(x, out=y)
        with np.errstate(over="ignore"):  # where e^-x is infinite the result is 0, as it should be
            np.exp(y, out=y)
        np.add(y, y.dtype.type(1), out=y)
        return np.reciprocal(y, out=y)

    def pullback(self, cotangent: Value, result: Value, *operands: Value) -> Cotangents:
        return (cotangent * (result * (1.0 - result)),)


class Tanh(Elementwise):
    """y = tanh x."""

    kinds: ClassVar[str] = "f"
    ufunc = np.tanh

    def pullback(self, cotangent: Value, result: Value, *operands: Value) -> Cotangents:
        return (cotangent * (1.0 - result * result),)


class Erf(Elementwise):
    """y = 2/√π ∫₀ˣ e^(-t²) dt."""

    kinds: ClassVar[str] = "f"

    def evaluate(self, *operands: Any, out: Any = None) -> Any:
        return erf_kernel(operands[0], out)

    def pullback(self, cotangent: Value, result: Value, *operands: Value) -> Cotangents:
        (x,) = operands
        return (cotangent * ((-(x * x)).exp() * (2 / math.sqrt(math.pi))),)


@dataclass(frozen=True, eq=False)
class LeakyRelu(Activation):
    """y = x where x ≥ 0, else αx."""

    alpha: float = 0.01

    def decompose(self, x: Any) -> Any:
        return where(x < 0, x * self.alpha, x)

    def evaluate(self, *operands: Any, out: Any = None) -> Any:
        (x,) = operands
        return store(np.where(x < 0, x * x.dtype.type(self.alpha), x), out)

    def pullback(self, cotangent: Value, result: Value, *operands: Value) -> Cotangents:
        return (where(operands[0] < 0, cotangent * self.alpha, cotangent),)


@dataclass(frozen=True, eq=False)
class Elu(Activation):
    """y = x where x > 0, else α(eˣ - 1)  (Clevert et al., 2016)."""

    alpha: float = 1.0

    def decompose(self, x: Any) -> Any:
        negative = apply(Min(), x, 0.0).exp() - 1.0
        return where(x > 0, x, negative if self.alpha == 1.0 else negative * self.alpha)

    def evaluate(self, *operands: Any, out: Any = None) -> Any:
        (x,) = operands
        negative = np.expm1(np.minimum(x, x.dtype.type(0)))
        return store(np.where(x > 0, x, negative * x.dtype.type(self.alpha)), out)

    def pullback(self, cotangent: Value, result: Value, *operands: Value) -> Cotangents:
        (x,) = operands
        return (where(x > 0, cotangent, cotangent * (result + self.alpha)),)


class Softplus(Activation):
    """y = ln(1 + eˣ), computed as max(x, 0) + ln(1 + e^-|x|)."""

    def decompose(self, x: Any) -> Any:
        return apply(Max(), x, 0.0) + (1.0 + (-x.abs()).exp()).log()

    def evaluate(self, *operands: Any, out: Any = None) -> Any:
        (x,) = operands
        return np.asarray(np.add(np.log1p(np.exp(-np.abs(x))), np.maximum(x, x.dtype.type(0)), out=out))

    def pullback(self, cotangent: Value, result: Value, *operands: Value) -> Cotangents:
        return (cotangent * sigmoid(operands[0]),)


@dataclass(frozen=True, eq=False)
class Swish(Activation):
    """y = x · sigmoid(αx); with α = 1 also called SiLU (ONNX opset 24; Ramachandran et al., 2017)."""

    alpha: float = 1.0

    def decompose(self, x: Any) -> Any:
        return x * apply(Sigmoid(), x if self.alpha == 1.0 else x * self.alpha)

    def evaluate(self, *operands: Any, out: Any = None) -> Any:
        (x,) = operands
        gate = Sigmoid().evaluate(x if self.alpha == 1.0 else np.asarray(x * x.dtype.type(self.alpha)))
        return np.multiply(x, gate, out=gate if out is None else out)

    def pullback(self, cotangent: Value, result: Value, *operands: Value) -> Cotangents:
        (x,) = operands
        gate = sigmoid(x * self.alpha if self.alpha != 1.0 else x)
        slope = result * (1.0 - gate)
        return (cotangent * (gate + (slope if self.alpha == 1.0 else slope * self.alpha)),)


@dataclass(frozen=True, eq=False)
class Gelu(Activation):
    """y = x Φ(x), exactly or by the tanh approximation (ONNX opset 20; Hendrycks & Gimpel, 2016)."""

    approximate: str = "none"

    def __post_init__(self) -> None:
        if self.approximate not in ("none", "tanh"):
            raise ValueError(f"Gelu: approximate is 'none' or 'tanh', not {self.approximate!r}")

    def decompose(self, x: Any) -> Any:
        if self.approximate == "none":
            return x * 0.5 * (apply(Erf(), x * math.sqrt(0.5)) + 1.0)
        return x * 0.5 * ((x + x * x * x * 0.044715) * math.sqrt(2 / math.pi)).tanh() + x * 0.5

    def evaluate(self, *operands: Any, out: Any = None) -> Any:
        (x,) = operands
        if self.approximate == "none":
            gate = erf_kernel(np.asarray(x * x.dtype.type(math.sqrt(0.5))))
            gate += x.dtype.type(1)
            gate *= x.dtype.type(0.5)
        else:
            gate = np.asarray(x * x)
            gate *= x.dtype.type(CUBIC)
            gate += x.dtype.type(LINEAR)
            gate *= x
            Sigmoid().evaluate(gate, out=gate)
        return np.multiply(x, gate, out=gate if out is None else out)

    def pullback(self, cotangent: Value, result: Value, *operands: Value) -> Cotangents:
        (x,) = operands
        gate = self._gate(x)
        if self.approximate == "none":
            return (cotangent * (gate + x * (x * x * -0.5 + LOG_DENSITY).exp()),)
        return (cotangent * (gate + result * (1.0 - gate) * (x * x * (3 * CUBIC) + LINEAR)),)

    def _gate(self, x: Value) -> Value:
        """Φ(x), or the sigmoid that approximates it: (1 + tanh z) / 2 = σ(2z)."""
        if self.approximate == "none":
            return apply(Erf(), x * math.sqrt(0.5)) * 0.5 + 0.5
        return apply(Sigmoid(), x * (x * x * CUBIC + LINEAR))

    def spelled(self, x: Value) -> Value:
        return x * self._gate(x)


def relu(x: Any) -> Any:
    """max(x, 0)."""
    return apply(Relu(), x)


def leaky_relu(x: Any, alpha: float = 0.01) -> Any:
    """x where x > 0, else α x."""
    return apply(LeakyRelu(float(alpha)), x)


def elu(x: Any, alpha: float = 1.0) -> Any:
    """x where x > 0, else α (eˣ - 1)."""
    return apply(Elu(float(alpha)), x)


def gelu(x: Any) -> Any:
    """x Φ(x), with Φ the normal distribution function (Hendrycks & Gimpel, 2016)."""
    return apply(Gelu(), x)


def gelu_tanh(x: Any) -> Any:
    """The approximation of ``gelu`` by a tanh: x (1 + tanh(√(2/π) (x + 0.044715 x³))) / 2."""
    return apply(Gelu("tanh"), x)


def silu(x: Any) -> Any:
    """x · sigmoid(x)."""
    return apply(Swish(), x)


def swish(x: Any, alpha: float = 1.0) -> Any:
    """x · sigmoid(αx)."""
    return apply(Swish(float(alpha)), x)


def sigmoid(x: Any) -> Any:
    """1 / (1 + e⁻ˣ)."""
    return apply(Sigmoid(), x)


def tanh(x: Any) -> Any:
    """The hyperbolic tangent of x."""
    return apply(Tanh(), x)


def softplus(x: Any) -> Any:
    """ln(1 + eˣ), stable at any x."""
    return apply(Softplus(), x)


def erf(x: Any) -> Any:
    """The error function, 2/√π ∫₀ˣ e^(-t²) dt."""
    return apply(Erf(), x)


def identity(x: Any) -> Any:
    """x as it is."""
    return x


ACTIVATIONS: dict[str, Callable[[Any], Any]] = {
    "identity": identity,
    "relu": relu,
    "leaky_relu": leaky_relu,
    "elu": elu,
    "gelu": gelu,
    "gelu_tanh": gelu_tanh,
    "silu": silu,
    "sigmoid": sigmoid,
    "tanh": tanh,
    "softplus": softplus,
    "softmax": softmax,
}
"""The activations a layer takes by name."""
