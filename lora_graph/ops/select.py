"""Choosing, bounding and converting elements (ONNX opset 21)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from lora_graph.ir.op import NodeView
from lora_graph.ir.types import TensorType
from lora_graph.ir.value import Value, apply, lift
from lora_graph.ops.base import Cotangents, Elementwise, store, unbroadcast


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

    @classmethod
    def read(cls, node: NodeView) -> Value:
        (x,) = node.operands
        assert x is not None
        return apply(cls(node.dtype("to")), x)


def where(condition: Any, a: Any, b: Any) -> Any:
    """``a`` where ``condition`` holds, else ``b``; numbers take the dtype of the other branch."""
    if not isinstance(condition, Value):
        return apply(Where(), condition, a, b)
    like = next((operand.type for operand in (a, b) if isinstance(operand, Value)), None)
    return apply(Where(), condition, lift(a, like), lift(b, like))


def clip(x: Value, low: Any, high: Any) -> Value:
    """``x`` held between the scalars ``low`` and ``high``."""
    return apply(Clip(), x, lift(low, x.type), lift(high, x.type))


def cast(x: Value, dtype: npt.DTypeLike) -> Value:
    """``x`` as ``dtype``."""
    return x.astype(dtype)
