"""Arithmetic of two operands, element by element, with NumPy's broadcasting (ONNX opset 21)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from lora_graph.ir.leaves import Constant, constant
from lora_graph.ir.op import NodeView
from lora_graph.ir.types import TensorType
from lora_graph.ir.value import Value, apply
from lora_graph.ops.base import Cotangents, Elementwise, Varying, store, unbroadcast
from lora_graph.ops.select import where


class Add(Elementwise):
    """y = a + b."""

    commutative: ClassVar[bool] = True
    ufunc = np.add

    def pullback(self, cotangent: Value, result: Value, *operands: Value) -> Cotangents:
        return tuple(unbroadcast(cotangent, operand.shape) for operand in operands)

    def is_linear(self, varying: Varying, operands: tuple[TensorType, ...], lead: int) -> bool:
        return all(varying) and operands[0].rank == operands[1].rank


class Sub(Elementwise):
    """y = a - b."""

    ufunc = np.subtract

    def pullback(self, cotangent: Value, result: Value, *operands: Value) -> Cotangents:
        a, b = operands
        return unbroadcast(cotangent, a.shape), unbroadcast(-cotangent, b.shape)

    def is_linear(self, varying: Varying, operands: tuple[TensorType, ...], lead: int) -> bool:
        return all(varying) and operands[0].rank == operands[1].rank


class Mul(Elementwise):
    """y = a · b."""

    commutative: ClassVar[bool] = True
    ufunc = np.multiply

    def pullback(self, cotangent: Value, result: Value, *operands: Value) -> Cotangents:
        a, b = operands
        if a is b and a.type.is_float:
            return cotangent * 2.0 * a, None  # doubled while it may still be one number for all elements
        return unbroadcast(cotangent * b, a.shape), unbroadcast(cotangent * a, b.shape)

    def is_linear(self, varying: Varying, operands: tuple[TensorType, ...], lead: int) -> bool:
        return scales(varying, operands, lead)


class Div(Elementwise):
    """y = a / b; for integers the quotient rounded towards zero, as in ONNX."""

    ufunc = np.divide

    def evaluate(self, *operands: Any, out: Any = None) -> Any:
        a, b = operands
        if a.dtype.kind not in "iu":
            return np.asarray(np.divide(a, b, out=out))
        quotient = np.floor_divide(a, b)
        quotient += ((a % b != 0) & ((a < 0) != (b < 0))).astype(quotient.dtype)
        return store(quotient, out)

    def pullback(self, cotangent: Value, result: Value, *operands: Value) -> Cotangents:
        a, b = operands
        return unbroadcast(cotangent / b, a.shape), unbroadcast(-(cotangent * result) / b, b.shape)

    def is_linear(self, varying: Varying, operands: tuple[TensorType, ...], lead: int) -> bool:
        return not varying[1] and scales(varying, operands, lead)


class Pow(Elementwise):
    """y = a^b. The derivative by b is 0 at a = 0, its limit for b > 0, and NaN for a < 0, where there is none."""

    ufunc = np.power

    def pullback(self, cotangent: Value, result: Value, *operands: Value) -> Cotangents:
        a, b = operands
        zero = a.equal(0)
        log = where(zero, 0, where(zero, 1, a).log())
        return unbroadcast(cotangent * b * a ** less_one(b), a.shape), unbroadcast(cotangent * result * log, b.shape)

    @classmethod
    def read(cls, node: NodeView) -> Value:
        """ONNX lets the exponent have a type of its own; the result has the type of the base."""
        a, b = node.operands
        assert a is not None
        assert b is not None
        wide = a.dtype if a.type.is_float or not b.type.is_float else b.dtype
        power: Value = apply(cls(), a.astype(wide), b.astype(wide))
        return power.astype(a.dtype)


@dataclass(frozen=True, eq=False)
class Mod(Elementwise):
    """y = a mod b with the sign of b (``fmod=1``: of a). Floats take ``fmod=1`` only, as in ONNX."""

    fmod: int = 0
    arity: ClassVar[int] = 2

    def infer(self, *operands: TensorType) -> TensorType:
        if operands[0].is_float and not self.fmod:
            raise TypeError(f"Mod: floats take fmod=1, got {operands[0]} with fmod=0")
        return self.unify(operands)

    def evaluate(self, *operands: Any, out: Any = None) -> Any:
        a, b = operands
        return np.asarray(np.fmod(a, b, out=out) if self.fmod else np.mod(a, b, out=out))

    def pullback(self, cotangent: Value, result: Value, *operands: Value) -> Cotangents:
        a, b = operands
        quotient = (a - result) / b
        return unbroadcast(cotangent, a.shape), unbroadcast(-(cotangent * quotient), b.shape)


class Max(Elementwise):
    """y = max(a, b); NaN wins. Equal operands share the cotangent."""

    commutative: ClassVar[bool] = True
    ufunc = np.maximum

    def pullback(self, cotangent: Value, result: Value, *operands: Value) -> Cotangents:
        return share(cotangent, operands, operands[0] > operands[1], operands[0] < operands[1])

    @classmethod
    def read(cls, node: NodeView) -> Value:
        return fold_operands(cls, node)


class Min(Elementwise):
    """y = min(a, b); NaN wins. Equal operands share the cotangent."""

    commutative: ClassVar[bool] = True
    ufunc = np.minimum

    def pullback(self, cotangent: Value, result: Value, *operands: Value) -> Cotangents:
        return share(cotangent, operands, operands[0] < operands[1], operands[0] > operands[1])

    @classmethod
    def read(cls, node: NodeView) -> Value:
        return fold_operands(cls, node)


def less_one(exponent: Value) -> Value:
    """b - 1, but 0 where b = 0, so that b · a^(b-1) is 0 and not NaN at a = 0 there."""
    if isinstance(exponent.op, Constant):
        value = exponent.op.value
        return constant(np.where(value == 0, 0, value - 1).astype(value.dtype))
    lowered: Value = where(exponent.equal(0), 0, exponent - 1)
    return lowered


def scales(varying: Varying, operands: tuple[TensorType, ...], lead: int) -> bool:
    """A product is linear in one factor while the other stays off the leading axes, or has size 1 there."""
    if all(varying):
        return False
    moving, still = operands if varying[0] else reversed(operands)
    across = max(0, still.rank - (moving.rank - lead))
    return still.rank <= moving.rank and all(d == 1 for d in still.shape[:across])


def share(cotangent: Value, operands: tuple[Value, ...], first: Value, second: Value) -> Cotangents:
    a, b = operands
    half = cotangent * 0.5 if cotangent.type.is_float else cotangent
    of_a = where(first, cotangent, where(second, 0, half))
    of_b = where(second, cotangent, where(first, 0, half))
    return unbroadcast(of_a, a.shape), unbroadcast(of_b, b.shape)


def fold_operands(op: type[Max] | type[Min], node: NodeView) -> Value:
    """ONNX's variadic form as a chain of binary ops."""
    operands = [operand for operand in node.operands if operand is not None]
    result = operands[0]
    for operand in operands[1:]:
        result = apply(op(), result, operand)
    return result


def minimum(a: Any, b: Any) -> Any:
    """The smaller of a and b, element by element; NaN wins."""
    return apply(Min(), a, b)


def maximum(a: Any, b: Any) -> Any:
    """The larger of a and b, element by element; NaN wins."""
    return apply(Max(), a, b)
