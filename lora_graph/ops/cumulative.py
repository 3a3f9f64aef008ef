"""Running sums, and the counting that follows from them (ONNX opset 14)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lora_graph.ir.dims import Dim
from lora_graph.ir.leaves import constant
from lora_graph.ir.op import Lowering, NodeView, Op
from lora_graph.ir.types import TensorType, normalize_axis
from lora_graph.ir.value import Value, apply
from lora_graph.ops.base import Cotangents, Varying, store
from lora_graph.ops.reduce import accumulator
from lora_graph.ops.shape import expand


@dataclass(frozen=True, eq=False)
class CumSum(Op):
    """y[i] = Σ x[j] over j ≤ i along ``axis``; with ``exclusive`` over j < i, with ``reverse`` from the other end."""

    axis: int
    exclusive: int = 0
    reverse: int = 0

    def infer(self, *operands: TensorType) -> TensorType:
        (x,) = operands
        normalize_axis(self.axis, x.rank, self.name)
        if x.dtype.kind == "b":
            raise TypeError(f"{self.name} is not defined for {x}")
        return x

    def evaluate(self, *operands: Any, out: Any = None) -> Any:
        x = np.flip(operands[0], self.axis) if self.reverse else operands[0]
        sums = np.cumsum(x, self.axis, **({"dtype": x.dtype} | accumulator(x)))
        if self.exclusive:
            sums = np.roll(sums, 1, self.axis)
            sums[tuple(slice(0, 1) if i == self.axis % x.ndim else slice(None) for i in range(x.ndim))] = 0
        return store(np.asarray(np.flip(sums, self.axis) if self.reverse else sums, x.dtype), out)

    def pullback(self, cotangent: Value, result: Value, *operands: Value) -> Cotangents:
        return (apply(CumSum(self.axis, self.exclusive, int(not self.reverse)), cotangent),)

    def is_linear(self, varying: Varying, operands: tuple[TensorType, ...], lead: int) -> bool:
        return self.axis % operands[0].rank >= lead

    def flops(self, result: Any, *operands: TensorType) -> Any:
        return operands[0].size

    def lower(self, to: Lowering, *operands: str) -> str:
        given = {"exclusive": self.exclusive, "reverse": self.reverse}
        return to.node("CumSum", [*operands, to.constant(self.axis, np.int64)], given)

    @classmethod
    def read(cls, node: NodeView) -> Value:
        axis = node.static(1)
        if axis is None or axis.size != 1:
            raise ValueError("CumSum: the axis has to be a number that is known before the model runs")
        exclusive, reverse = (int(node.attributes.get(name, 0)) for name in ("exclusive", "reverse"))
        return apply(cls(int(axis.item()), exclusive, reverse), node.operands[0])


def cumsum(x: Any, axis: int = -1, exclusive: bool = False, reverse: bool = False) -> Any:
    """Running sums of ``x`` along ``axis``, without the element itself where ``exclusive``."""
    return apply(CumSum(axis, int(exclusive), int(reverse)), x)


def arange(count: Dim, dtype: npt.DTypeLike = np.int64) -> Value:
    """0, 1, … as a vector of ``count`` elements, which may be a named dimension."""
    counted: Value = cumsum(expand(constant(1, dtype), (count,)), 0, exclusive=True)
    return counted
