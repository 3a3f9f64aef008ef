"""Reductions and softmax. ``axes=None`` reduces all axes; ``keepdims`` keeps them with size 1 (ONNX opset 18)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from lora_graph.ir import dims
from lora_graph.ir.dims import Dim
from lora_graph.ir.leaves import size_of
from lora_graph.ir.op import Lowering, NodeView, Op
from lora_graph.ir.types import Array, TensorType, normalize_axis
from lora_graph.ir.value import Value, apply
from lora_graph.ops.base import Cotangents, Varying, store
from lora_graph.ops.select import where
from lora_graph.ops.shape import axes_of, expand, flatten, unsqueeze


@dataclass(frozen=True, eq=False)
class Reduction(Op, abstract=True):
    """One number for all elements along ``axes``."""

    axes: tuple[int, ...] | None = None
    keepdims: int = 0
    writes_out: ClassVar[bool] = True
    kinds: ClassVar[str] = "fiu"
    bools: ClassVar[bool] = False
    """Whether ONNX has it for bools, which are then read as the numbers 0 and 1."""

    def __post_init__(self) -> None:
        if self.axes == ():
            raise ValueError(f"{self.name}: axes must name at least one axis; None means all of them")

    def reduced(self, x: TensorType) -> tuple[int, ...]:
        """The reduced axes, counted from the front."""
        if self.axes is None:
            return tuple(range(x.rank))
        return tuple(sorted(normalize_axis(axis, x.rank, self.name) for axis in self.axes))

    def infer(self, *operands: TensorType) -> TensorType:
        (x,) = operands
        gone = self.reduced(x)
        if ("f" if x.is_float else x.dtype.kind) not in self.kinds:
            raise TypeError(f"{self.name} is not defined for {x}")
        if len(set(gone)) != len(gone):
            raise ValueError(f"{self.name}: axes {self.axes} repeat an axis of {x}")
        if self.keepdims:
            return x.with_shape([1 if i in gone else d for i, d in enumerate(x.shape)])
        return x.with_shape([d for i, d in enumerate(x.shape) if i not in gone])

    def evaluate(self, *operands: Any, out: Any = None) -> Any:
        (x,) = operands
        axes = self.reduced(TensorType(x.dtype, x.shape))
        return store(np.asarray(self.along(x, axes, bool(self.keepdims)), x.dtype), out)

    def along(self, x: Array, axes: tuple[int, ...], keepdims: bool) -> Any:
        raise NotImplementedError(self.name)

    def count(self, x: TensorType) -> Dim:
        return dims.product([x.shape[axis] for axis in self.reduced(x)])

    def restore(self, reduced: Value, x: Value) -> Value:
        """A reduced Value with the reduced axes put back, to meet ``x`` by broadcasting."""
        return reduced if self.keepdims else unsqueeze(reduced, self.reduced(x.type))

    def is_linear(self, varying: Varying, operands: tuple[TensorType, ...], lead: int) -> bool:
        return isinstance(self, ReduceSum | ReduceMean) and all(axis >= lead for axis in self.reduced(operands[0]))

    def flops(self, result: Any, *operands: TensorType) -> Any:
        return operands[0].size

    def lower(self, to: Lowering, *operands: str) -> str:
        if self.axes is None:
            return to.node(self.name, operands, {"keepdims": self.keepdims})
        # counted from the front: ONNX Runtime overlooks a negative axis of an empty tensor
        axes = to.constant([axis % to.type(operands[0]).rank for axis in self.axes], np.int64)
        noted = {"axes": self.axes} if min(self.axes) < 0 else {}
        return to.node(self.name, [*operands, axes], {"keepdims": self.keepdims}, noted=noted)

    @classmethod
    def read(cls, node: NodeView) -> Value:
        x, axes, keepdims = node.operands[0], axes_of(node) or None, int(node.attributes.get("keepdims", 1))
        assert x is not None
        if axes is None and node.attributes.get("noop_with_empty_axes"):
            return cls.of_no_axes(x)
        noted = node.noted("axes")
        if noted and axes and [axis % x.rank for axis in noted] == list(axes):
            axes = noted
        if x.dtype == np.bool_ and cls.bools:
            return apply(cls(axes, keepdims), x.astype(np.uint8)).astype(np.bool_)
        return apply(cls(axes, keepdims), x)

    @classmethod
    def of_no_axes(cls, x: Value) -> Value:
        """What is left of the reduction where it is told to reduce along no axis."""
        return x


class ReduceSum(Reduction):
    """y = Σ x."""

    def evaluate(self, *operands: Any, out: Any = None) -> Any:
        (x,) = operands
        axes = self.reduced(TensorType(x.dtype, x.shape))
        if axes == (0,) and x.ndim == 2 and x.dtype.kind == "f" and x.dtype.itemsize > 2 and x.shape[0] > 1:
            # a product with ones runs at the speed of memory; NumPy's own sum over rows does not
            sums = np.matmul(np.ones((1, x.shape[0]), x.dtype), x)
            return store(sums if self.keepdims else sums[0], out)
        return super().evaluate(x, out=out)

    def along(self, x: Array, axes: tuple[int, ...], keepdims: bool) -> Any:
        return np.sum(x, axis=axes, keepdims=keepdims, **accumulator(x))

    def pullback(self, cotangent: Value, result: Value, *operands: Value) -> Cotangents:
        (x,) = operands
        return (expand(self.restore(cotangent, x), x.shape),)


class ReduceMean(Reduction):
    """y = Σ x / n; NaN where n = 0."""

    kinds: ClassVar[str] = "f"

    def along(self, x: Array, axes: tuple[int, ...], keepdims: bool) -> Any:
        count = math.prod(x.shape[axis] for axis in axes)
        return np.sum(x, axis=axes, keepdims=keepdims, **accumulator(x)) / x.dtype.type(count or math.nan)

    def pullback(self, cotangent: Value, result: Value, *operands: Value) -> Cotangents:
        (x,) = operands
        scaled = cotangent / size_of(self.count(x.type), x.dtype)
        return (expand(self.restore(scaled, x), x.shape),)


class ReduceMax(Reduction):
    """y = max x; equal maxima share the cotangent. The maximum of nothing is the lowest number of the dtype."""

    bools: ClassVar[bool] = True

    def along(self, x: Array, axes: tuple[int, ...], keepdims: bool) -> Any:
        lowest = -np.inf if x.dtype.kind == "f" else np.iinfo(x.dtype).min
        return np.max(x, axis=axes, keepdims=keepdims, initial=lowest)

    def pullback(self, cotangent: Value, result: Value, *operands: Value) -> Cotangents:
        return (share_extremum(self, cotangent, result, operands[0]),)


class ReduceMin(Reduction):
    """y = min x; equal minima share the cotangent. The minimum of nothing is the highest number of the dtype."""

    bools: ClassVar[bool] = True

    def along(self, x: Array, axes: tuple[int, ...], keepdims: bool) -> Any:
        highest = np.inf if x.dtype.kind == "f" else np.iinfo(x.dtype).max
        return np.min(x, axis=axes, keepdims=keepdims, initial=highest)

    def pullback(self, cotangent: Value, result: Value, *operands: Value) -> Cotangents:
        return (share_extremum(self, cotangent, result, operands[0]),)


class ReduceProd(Reduction):
    """y = Π x. The derivative is exact with zeros among x, too; the second derivative only without."""

    def along(self, x: Array, axes: tuple[int, ...], keepdims: bool) -> Any:
        return np.prod(x, axis=axes, keepdims=keepdims, **accumulator(x))

    def pullback(self, cotangent: Value, result: Value, *operands: Value) -> Cotangents:
        (x,) = operands
        axes = self.reduced(x.type)
        if not axes:
            return (cotangent,)
        zero = x.equal(0)
        filled, flag = where(zero, 1, x), zero.astype(x.dtype)
        others = apply(ReduceProd(axes, 1), filled) / filled
        # without x itself, the product is 0 if a zero is left among the others
        left = where(flag.sum(axis=axes, keepdims=True).equal(flag), others, 0)
        return (self.restore(cotangent, x) * left,)


@dataclass(frozen=True, eq=False)
class ArgMax(Op):
    """The index of the first maximum along ``axis``, as int64."""

    axis: int = 0
    keepdims: int = 0

    def infer(self, *operands: TensorType) -> TensorType:
        return ReduceMax((self.axis,), self.keepdims).infer(*operands).with_dtype(np.int64)

    def evaluate(self, *operands: Any, out: Any = None) -> Any:
        return np.asarray(np.argmax(operands[0], self.axis, keepdims=bool(self.keepdims)), np.int64)

    def flops(self, result: Any, *operands: TensorType) -> Any:
        return operands[0].size

    def pullback(self, cotangent: Value, result: Value, *operands: Value) -> Cotangents:
        return (None,)

    @classmethod
    def read(cls, node: NodeView) -> Value:
        a = node.attributes
        if a.get("select_last_index"):
            raise ValueError("ArgMax: select_last_index=1 is not supported")
        return apply(cls(a.get("axis", 0), a.get("keepdims", 1)), node.operands[0])


@dataclass(frozen=True, eq=False)
class Distribution(Op, abstract=True):
    """Floats made to sum to 1 along ``axis``, shifted by their maximum so that nothing overflows."""

    axis: int = -1
    writes_out: ClassVar[bool] = True
    in_place: ClassVar[int] = 1

    def infer(self, *operands: TensorType) -> TensorType:
        (x,) = operands
        normalize_axis(self.axis, x.rank, self.name)
        if not x.is_float:
            raise TypeError(f"{self.name} is defined for floats, got {x}")
        return x

    def flops(self, result: Any, *operands: TensorType) -> Any:
        return operands[0].size * 5

    @classmethod
    def read(cls, node: NodeView) -> Value:
        """Before opset 13 the elements of all axes from ``axis`` on sum to 1 together."""
        (x,) = node.operands
        assert x is not None
        axis = node.attributes.get("axis", 1 if node.opset < 13 else -1)
        if node.opset >= 13 or normalize_axis(axis, x.rank, cls.__name__) == x.rank - 1:
            y: Value = apply(cls(axis), x)
            return y
        flat: Value = apply(cls(1), flatten(x, axis))
        return flat.reshape(x.shape)


class Softmax(Distribution):
    """y = eˣ / Σ eˣ along ``axis``."""

    def evaluate(self, *operands: Any, out: Any = None) -> Any:
        (x,) = operands
        y = np.subtract(x, x.max(self.axis, keepdims=True, initial=-np.inf), out=out)
        np.exp(y, out=y)
        y /= y.sum(self.axis, keepdims=True, **accumulator(y))
        return y

    def pullback(self, cotangent: Value, result: Value, *operands: Value) -> Cotangents:
        weighted = cotangent * result
        return (weighted - result * weighted.sum(axis=self.axis, keepdims=True),)


class LogSoftmax(Distribution):
    """y = x - ln Σ eˣ along ``axis``."""

    def evaluate(self, *operands: Any, out: Any = None) -> Any:
        (x,) = operands
        y = np.subtract(x, x.max(self.axis, keepdims=True, initial=-np.inf), out=out)
        total = np.exp(y).sum(self.axis, keepdims=True, **accumulator(y))
        return np.subtract(y, np.log(total), out=y)

    def pullback(self, cotangent: Value, result: Value, *operands: Value) -> Cotangents:
        return (cotangent - result.exp() * cotangent.sum(axis=self.axis, keepdims=True),)


def share_extremum(op: Reduction, cotangent: Value, result: Value, x: Value) -> Value:
    if not op.reduced(x.type):
        return cotangent
    hit = x.equal(op.restore(result, x)).astype(x.dtype)
    return hit * (op.restore(cotangent, x) / hit.sum(axis=op.reduced(x.type), keepdims=True))


def accumulator(x: Array) -> dict[str, Any]:
    """float16 sums are taken in float32."""
    return {"dtype": np.float32} if x.dtype == np.float16 else {}


def softmax(x: Any, axis: int = -1) -> Any:
    """eˣ / Σ eˣ along ``axis``."""
    return apply(Softmax(axis), x)


def log_softmax(x: Any, axis: int = -1) -> Any:
    """x - ln Σ eˣ along ``axis``."""
    return apply(LogSoftmax(axis), x)


def argmax(x: Value, axis: int = -1) -> Value:
    """The index of the first maximum along ``axis``, as int64."""
    return apply(ArgMax(axis % x.rank), x)
