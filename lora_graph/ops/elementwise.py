"""Arithmetic, comparison and logic, element by element, with NumPy's broadcasting (ONNX opset 21)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from lora_graph.ir.leaves import Constant, constant
from lora_graph.ir.op import Lowering, NodeView
from lora_graph.ir.types import Array, TensorType
from lora_graph.ir.value import Value, apply, lift
from lora_graph.ops.base import Comparison, Elementwise, unbroadcast

Cotangents = tuple[Value | None, ...]


@dataclass(frozen=True, eq=False)
class Add(Elementwise):
    """y = a + b."""

    commutative: ClassVar[bool] = True
    ufunc = np.add

    def pullback(self, cotangent: Value, result: Value, *operands: Value) -> Cotangents:
        return tuple(unbroadcast(cotangent, operand.shape) for operand in operands)

    def is_linear(self, varying: tuple[bool, ...], operands: tuple[TensorType, ...], lead: int) -> bool:
        return all(varying) and operands[0].rank == operands[1].rank


@dataclass(frozen=True, eq=False)
class Sub(Elementwise):
    """y = a - b."""

    ufunc = np.subtract

    def pullback(self, cotangent: Value, result: Value, *operands: Value) -> Cotangents:
        a, b = operands
        return unbroadcast(cotangent, a.shape), unbroadcast(-cotangent, b.shape)

    def is_linear(self, varying: tuple[bool, ...], operands: tuple[TensorType, ...], lead: int) -> bool:
        return all(varying) and operands[0].rank == operands[1].rank


@dataclass(frozen=True, eq=False)
class Mul(Elementwise):
    """y = a · b."""

    commutative: ClassVar[bool] = True
    ufunc = np.multiply

    def pullback(self, cotangent: Value, result: Value, *operands: Value) -> Cotangents:
        a, b = operands
        return unbroadcast(cotangent * b, a.shape), unbroadcast(cotangent * a, b.shape)

    def is_linear(self, varying: tuple[bool, ...], operands: tuple[TensorType, ...], lead: int) -> bool:
        return scales(varying, operands, lead)


@dataclass(frozen=True, eq=False)
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

    def is_linear(self, varying: tuple[bool, ...], operands: tuple[TensorType, ...], lead: int) -> bool:
        return not varying[1] and scales(varying, operands, lead)


@dataclass(frozen=True, eq=False)
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


@dataclass(frozen=True, eq=False)
class Max(Elementwise):
    """y = max(a, b); NaN wins. Equal operands share the cotangent."""

    commutative: ClassVar[bool] = True
    ufunc = np.maximum

    def pullback(self, cotangent: Value, result: Value, *operands: Value) -> Cotangents:
        return share(cotangent, operands, operands[0] > operands[1], operands[0] < operands[1])

    @classmethod
    def read(cls, node: NodeView) -> Value:
        return fold_operands(cls, node)


@dataclass(frozen=True, eq=False)
class Min(Elementwise):
    """y = min(a, b); NaN wins. Equal operands share the cotangent."""

    commutative: ClassVar[bool] = True
    ufunc = np.minimum

    def pullback(self, cotangent: Value, result: Value, *operands: Value) -> Cotangents:
        return share(cotangent, operands, operands[0] < operands[1], operands[0] > operands[1])

    @classmethod
    def read(cls, node: NodeView) -> Value:
        return fold_operands(cls, node)


@dataclass(frozen=True, eq=False)
class Neg(Elementwise):
    """y = -x."""

    kinds: ClassVar[str] = "fi"
    ufunc = np.negative

    def pullback(self, cotangent: Value, result: Value, *operands: Value) -> Cotangents:
        return (-cotangent,)

    def is_linear(self, varying: tuple[bool, ...], operands: tuple[TensorType, ...], lead: int) -> bool:
        return True


@dataclass(frozen=True, eq=False)
class Abs(Elementwise):
    """y = |x|, with derivative 0 at 0."""

    ufunc = np.absolute

    def pullback(self, cotangent: Value, result: Value, *operands: Value) -> Cotangents:
        return (cotangent * sign(operands[0]),)


@dataclass(frozen=True, eq=False)
class Sign(Elementwise):
    """y = -1, 0 or 1."""

    ufunc = np.sign

    def pullback(self, cotangent: Value, result: Value, *operands: Value) -> Cotangents:
        return (None,)


@dataclass(frozen=True, eq=False)
class Floor(Elementwise):
    """y = ⌊x⌋."""

    kinds: ClassVar[str] = "f"
    ufunc = np.floor

    def pullback(self, cotangent: Value, result: Value, *operands: Value) -> Cotangents:
        return (None,)


@dataclass(frozen=True, eq=False)
class Ceil(Elementwise):
    """y = ⌈x⌉."""

    kinds: ClassVar[str] = "f"
    ufunc = np.ceil

    def pullback(self, cotangent: Value, result: Value, *operands: Value) -> Cotangents:
        return (None,)


@dataclass(frozen=True, eq=False)
class Exp(Elementwise):
    """y = eˣ."""

    kinds: ClassVar[str] = "f"
    ufunc = np.exp

    def pullback(self, cotangent: Value, result: Value, *operands: Value) -> Cotangents:
        return (cotangent * result,)


@dataclass(frozen=True, eq=False)
class Log(Elementwise):
    """y = ln x."""

    kinds: ClassVar[str] = "f"
    ufunc = np.log

    def pullback(self, cotangent: Value, result: Value, *operands: Value) -> Cotangents:
        return (cotangent / operands[0],)


@dataclass(frozen=True, eq=False)
class Sqrt(Elementwise):
    """y = √x."""

    kinds: ClassVar[str] = "f"
    ufunc = np.sqrt

    def pullback(self, cotangent: Value, result: Value, *operands: Value) -> Cotangents:
        return (cotangent / (result * 2.0),)


@dataclass(frozen=True, eq=False)
class Reciprocal(Elementwise):
    """y = 1 / x."""

    kinds: ClassVar[str] = "f"
    ufunc = np.reciprocal

    def pullback(self, cotangent: Value, result: Value, *operands: Value) -> Cotangents:
        return (-(cotangent * result * result),)


@dataclass(frozen=True, eq=False)
class Sin(Elementwise):
    """y = sin x."""

    kinds: ClassVar[str] = "f"
    ufunc = np.sin

    def pullback(self, cotangent: Value, result: Value, *operands: Value) -> Cotangents:
        return (cotangent * apply(Cos(), operands[0]),)


@dataclass(frozen=True, eq=False)
class Cos(Elementwise):
    """y = cos x."""

    kinds: ClassVar[str] = "f"
    ufunc = np.cos

    def pullback(self, cotangent: Value, result: Value, *operands: Value) -> Cotangents:
        return (-(cotangent * apply(Sin(), operands[0])),)


@dataclass(frozen=True, eq=False)
class Equal(Comparison):
    """y = (a = b)."""

    commutative: ClassVar[bool] = True
    kinds: ClassVar[str] = "fiub"
    ufunc = np.equal


@dataclass(frozen=True, eq=False)
class Greater(Comparison):
    """y = (a > b)."""

    ufunc = np.greater


@dataclass(frozen=True, eq=False)
class GreaterOrEqual(Comparison):
    """y = (a ≥ b)."""

    ufunc = np.greater_equal


@dataclass(frozen=True, eq=False)
class Less(Comparison):
    """y = (a < b)."""

    ufunc = np.less


@dataclass(frozen=True, eq=False)
class LessOrEqual(Comparison):
    """y = (a ≤ b)."""

    ufunc = np.less_equal


@dataclass(frozen=True, eq=False)
class And(Comparison):
    """y = a ∧ b."""

    commutative: ClassVar[bool] = True
    kinds: ClassVar[str] = "b"
    ufunc = np.logical_and


@dataclass(frozen=True, eq=False)
class Or(Comparison):
    """y = a ∨ b."""

    commutative: ClassVar[bool] = True
    kinds: ClassVar[str] = "b"
    ufunc = np.logical_or


@dataclass(frozen=True, eq=False)
class Xor(Comparison):
    """y = a ⊻ b."""

    commutative: ClassVar[bool] = True
    kinds: ClassVar[str] = "b"
    ufunc = np.logical_xor


@dataclass(frozen=True, eq=False)
class Not(Comparison):
    """y = ¬a."""

    kinds: ClassVar[str] = "b"
    ufunc = np.logical_not


@dataclass(frozen=True, eq=False)
class IsNaN(Comparison):
    """y = x is not a number."""

    kinds: ClassVar[str] = "f"
    ufunc = np.isnan


@dataclass(frozen=True, eq=False)
class Where(Elementwise):
    """y = a where the bool condition holds, else b."""

    kinds: ClassVar[str] = "fiub"
    arity: ClassVar[int] = 3

    def infer(self, *operands: TensorType) -> TensorType:
        condition, a, b = operands
        if condition.dtype != np.bool_:
            raise TypeError(f"Where: the condition must be bool, got {condition}")
        return self.unify((a, b, a.with_shape(condition.shape)))

    def evaluate(self, *operands: Any, out: Any = None) -> Any:
        condition, a, b = operands
        if out is None or np.may_share_memory(out, condition):
            return store(np.where(condition, a, b), out)
        if np.may_share_memory(out, a):
            np.copyto(out, b, where=np.logical_not(condition))
        else:
            if out is not b:
                np.copyto(out, b)
            np.copyto(out, a, where=condition)
        return out

    def pullback(self, cotangent: Value, result: Value, *operands: Value) -> Cotangents:
        condition, a, b = operands
        of_a, of_b = where(condition, cotangent, 0), where(condition, 0, cotangent)
        return None, unbroadcast(of_a, a.shape), unbroadcast(of_b, b.shape)


@dataclass(frozen=True, eq=False)
class Clip(Elementwise):
    """y = min(max(x, low), high) for scalars low ≤ high; at a bound itself the cotangent goes to x."""

    in_place: ClassVar[int] = 1
    arity: ClassVar[int] = 3

    def infer(self, *operands: TensorType) -> TensorType:
        if any(limit.shape for limit in operands[1:]):
            raise ValueError(f"Clip: the bounds must be scalars, got {operands[1]} and {operands[2]}")
        return self.unify(operands)

    def evaluate(self, *operands: Any, out: Any = None) -> Any:
        x, low, high = operands
        held = np.maximum(x, low, out=out)
        return np.asarray(np.minimum(held, high, out=held if x.ndim else out))

    def pullback(self, cotangent: Value, result: Value, *operands: Value) -> Cotangents:
        x, low, high = operands
        below, above = x < low, x > high
        inside = where(below, 0, where(above, 0, cotangent))
        return inside, where(below, cotangent, 0).sum(), where(above, cotangent, 0).sum()

    @classmethod
    def read(cls, node: NodeView) -> Value:
        """A bound that is not given is an operand or, before opset 11, an attribute that is not there."""
        x, *given = node.operands
        assert x is not None
        info: Any = np.finfo(x.dtype) if x.type.is_float else np.iinfo(x.dtype)
        widest = (-np.inf, np.inf) if x.type.is_float else (info.min, info.max)
        written = (node.attributes.get("min", widest[0]), node.attributes.get("max", widest[1]))
        operands = [*given, None, None][:2]
        low, high = (written[i] if limit is None else limit for i, limit in enumerate(operands))
        return clip(x, low, high)


@dataclass(frozen=True, eq=False)
class Cast(Elementwise):
    """y = x as dtype ``to``."""

    to: np.dtype[Any]
    kinds: ClassVar[str] = "fiub"

    def infer(self, *operands: TensorType) -> TensorType:
        return self.unify(operands).with_dtype(self.to)

    def evaluate(self, *operands: Any, out: Any = None) -> Any:
        (x,) = operands
        if out is None:
            return x.astype(self.to)
        np.copyto(out, x, casting="unsafe")
        return out

    def pullback(self, cotangent: Value, result: Value, *operands: Value) -> Cotangents:
        (x,) = operands
        return (cotangent.astype(x.dtype) if x.type.is_float and result.type.is_float else None,)

    def lower(self, to: Lowering, *operands: str) -> str:
        return to.node("Cast", operands, {"to": self.to})

    @classmethod
    def read(cls, node: NodeView) -> Value:
        (x,) = node.operands
        assert x is not None
        return apply(cls(node.dtype("to")), x)


def store(result: Array, out: Array | None) -> Array:
    """``result`` as an array, copied to ``out`` if that is given."""
    if out is None:
        return np.asarray(result)
    np.copyto(out, result)
    return out


def less_one(exponent: Value) -> Value:
    """b - 1, but 0 where b = 0, so that b · a^(b-1) is 0 and not NaN at a = 0 there."""
    if isinstance(exponent.op, Constant):
        value = exponent.op.value
        return constant(np.where(value == 0, 0, value - 1).astype(value.dtype))
    lowered: Value = where(exponent.equal(0), 0, exponent - 1)
    return lowered


def scales(varying: tuple[bool, ...], operands: tuple[TensorType, ...], lead: int) -> bool:
    """A product is linear in one factor while the other stays off the leading axes."""
    if all(varying):
        return False
    moving, still = operands if varying[0] else reversed(operands)
    return still.rank <= moving.rank - lead


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


def where(condition: Any, a: Any, b: Any) -> Any:
    """``a`` where ``condition`` holds, else ``b``; numbers take the dtype of the other branch."""
    if not isinstance(condition, Value):
        return apply(Where(), condition, a, b)
    like = next((operand.type for operand in (a, b) if isinstance(operand, Value)), None)
    return apply(Where(), condition, lift(a, like), lift(b, like))


def sign(x: Value) -> Value:
    return apply(Sign(), x)


def minimum(a: Any, b: Any) -> Any:
    return apply(Min(), a, b)


def maximum(a: Any, b: Any) -> Any:
    return apply(Max(), a, b)


def clip(x: Value, low: Any, high: Any) -> Value:
    """``x`` held between the scalars ``low`` and ``high``."""
    return apply(Clip(), x, lift(low, x.type), lift(high, x.type))


def cast(x: Value, dtype: npt.DTypeLike) -> Value:
    return x.astype(dtype)
