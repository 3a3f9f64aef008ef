"""Functions of one operand, element by element (ONNX opset 21)."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from lora_graph.ir.types import TensorType
from lora_graph.ir.value import Value, apply
from lora_graph.ops.base import Cotangents, Elementwise, Varying


class Neg(Elementwise):
    """y = -x."""

    kinds: ClassVar[str] = "fi"
    ufunc = np.negative

    def pullback(self, cotangent: Value, result: Value, *operands: Value) -> Cotangents:
        return (-cotangent,)

    def is_linear(self, varying: Varying, operands: tuple[TensorType, ...], lead: int) -> bool:
        return True


class Abs(Elementwise):
    """y = |x|, with derivative 0 at 0."""

    ufunc = np.absolute

    def pullback(self, cotangent: Value, result: Value, *operands: Value) -> Cotangents:
        return (cotangent * sign(operands[0]),)


class Sign(Elementwise):
    """y = -1, 0 or 1."""

    ufunc = np.sign

    def pullback(self, cotangent: Value, result: Value, *operands: Value) -> Cotangents:
        return (None,)


class Floor(Elementwise):
    """y = ⌊x⌋."""

    kinds: ClassVar[str] = "f"
    ufunc = np.floor

    def pullback(self, cotangent: Value, result: Value, *operands: Value) -> Cotangents:
        return (None,)


class Ceil(Elementwise):
    """y = ⌈x⌉."""

    kinds: ClassVar[str] = "f"
    ufunc = np.ceil

    def pullback(self, cotangent: Value, result: Value, *operands: Value) -> Cotangents:
        return (None,)


class Exp(Elementwise):
    """y = eˣ."""

    kinds: ClassVar[str] = "f"
    ufunc = np.exp

    def pullback(self, cotangent: Value, result: Value, *operands: Value) -> Cotangents:
        return (cotangent * result,)


class Log(Elementwise):
    """y = ln x."""

    kinds: ClassVar[str] = "f"
    ufunc = np.log

    def pullback(self, cotangent: Value, result: Value, *operands: Value) -> Cotangents:
        return (cotangent / operands[0],)


class Sqrt(Elementwise):
    """y = √x."""

    kinds: ClassVar[str] = "f"
    ufunc = np.sqrt

    def pullback(self, cotangent: Value, result: Value, *operands: Value) -> Cotangents:
        return (cotangent / (result * 2.0),)


class Reciprocal(Elementwise):
    """y = 1 / x."""

    kinds: ClassVar[str] = "f"
    ufunc = np.reciprocal

    def pullback(self, cotangent: Value, result: Value, *operands: Value) -> Cotangents:
        return (-(cotangent * result * result),)


class Sin(Elementwise):
    """y = sin x."""

    kinds: ClassVar[str] = "f"
    ufunc = np.sin

    def pullback(self, cotangent: Value, result: Value, *operands: Value) -> Cotangents:
        return (cotangent * apply(Cos(), operands[0]),)


class Cos(Elementwise):
    """y = cos x."""

    kinds: ClassVar[str] = "f"
    ufunc = np.cos

    def pullback(self, cotangent: Value, result: Value, *operands: Value) -> Cotangents:
        return (-(cotangent * apply(Sin(), operands[0])),)


def sign(x: Value) -> Value:
    """-1, 0 or 1, as x is negative, zero or positive."""
    return apply(Sign(), x)
