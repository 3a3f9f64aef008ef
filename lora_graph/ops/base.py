"""What the element-wise ops share: broadcasting, one dtype, NumPy ufuncs, and the transpose of broadcasting."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from lora_graph.ir.dims import Shape
from lora_graph.ir.op import Op
from lora_graph.ir.types import Array, TensorType, broadcast
from lora_graph.ir.value import Value

Cotangents = tuple[Value | None, ...]
"""What a pullback gives: a Value for each operand, or None where there is no derivative."""

Varying = tuple[bool, ...]
"""For each operand, whether it is one of those that an op is asked to be linear in."""


class Elementwise(Op, abstract=True):
    """y = f(a, b, …) element by element, operands broadcast to one shape and of one dtype."""

    elementwise: ClassVar[bool] = True
    writes_out: ClassVar[bool] = True
    in_place: ClassVar[int] = 3
    kinds: ClassVar[str] = "fiu"
    """NumPy dtype kinds the operands may have (ONNX's bfloat16 counts as ``f``)."""
    ufunc: ClassVar[Any]
    arity: ClassVar[int] = 1
    """How many operands there are; that of ``ufunc`` where it has one."""

    def __init_subclass__(cls, abstract: bool = False) -> None:
        super().__init_subclass__(abstract=abstract)
        if "ufunc" in cls.__dict__:
            cls.arity = cls.ufunc.nin

    def infer(self, *operands: TensorType) -> TensorType:
        return self.unify(operands)

    def unify(self, operands: tuple[TensorType, ...]) -> TensorType:
        """The broadcast type of operands that must share a dtype of the right kind."""
        if len(operands) != self.arity:
            raise TypeError(f"{self.name} takes {self.arity} operands, got {len(operands)}")
        first = operands[0]
        shape: Shape = first.shape
        for other in operands[1:]:
            if other.dtype != first.dtype:
                listed = ", ".join(str(operand) for operand in operands)
                raise TypeError(f"{self.name}: operands must share one dtype, got {listed}; use astype")
            shape = broadcast(shape, other.shape, self.name)
        kind = "f" if first.is_float else first.dtype.kind
        if kind not in self.kinds:
            raise TypeError(f"{self.name} is not defined for {first.dtype.name}")
        return first.with_shape(shape)

    def evaluate(self, *operands: Any, out: Any = None) -> Any:
        return np.asarray(type(self).ufunc(*operands, out=out))


class Comparison(Elementwise, abstract=True):
    """An element-wise op with a bool result and no derivative."""

    def infer(self, *operands: TensorType) -> TensorType:
        return self.unify(operands).with_dtype(np.bool_)

    def pullback(self, cotangent: Value, result: Value, *operands: Value) -> Cotangents:
        return (None,) * len(operands)


def unbroadcast(cotangent: Value, shape: Shape) -> Value:
    """The transpose of broadcasting: ``cotangent`` summed over the axes along which ``shape`` was stretched."""
    if cotangent.shape == shape:
        return cotangent
    extra = cotangent.rank - len(shape)
    if extra:
        cotangent = cotangent.sum(axis=tuple(range(extra)))
    stretched = tuple(i for i, d in enumerate(shape) if d == 1 and cotangent.shape[i] != 1)
    return cotangent.sum(axis=stretched, keepdims=True) if stretched else cotangent


def store(result: Array, out: Array | None) -> Array:
    """``result`` as an array, copied to ``out`` if that is given."""
    if out is None:
        return np.asarray(result)
    np.copyto(out, result)
    return out
