"""Taking as much of a tensor as a number says that is known only when the graph runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from lora_graph.ir import dims
from lora_graph.ir.dims import Dim
from lora_graph.ir.op import Lowering, NodeView, Op
from lora_graph.ir.types import TensorType, normalize_axis
from lora_graph.ir.value import Value, apply
from lora_graph.ops.base import Cotangents, Varying
from lora_graph.ops.slice import spread


@dataclass(frozen=True, eq=False)
class SliceTo(Op):
    """y = x[:n] along ``axis``, where n, from 0 to the length of the axis, is the second operand, int64[1].

    ``size`` is what n is called as a dimension. n must follow from inputs of the graph without named dimensions, so
    that whoever runs it knows all sizes beforehand. ONNX: a Slice whose end is computed.
    """

    axis: int
    size: Dim

    def infer(self, *operands: TensorType) -> TensorType:
        x, n = operands
        if n != TensorType(np.dtype(np.int64), (1,)):
            raise TypeError(f"SliceTo: the number must be int64[1], got {n}")
        at = normalize_axis(self.axis, x.rank, self.name)
        return x.with_shape((*x.shape[:at], self.size, *x.shape[at + 1 :]))

    def evaluate(self, *operands: Any, out: Any = None) -> Any:
        x, (n,) = operands
        if not 0 <= n <= x.shape[self.axis]:
            raise ValueError(f"SliceTo: {n} is not in 0..{x.shape[self.axis]}")
        index = [slice(None)] * x.ndim
        index[self.axis] = slice(int(n))
        return np.ascontiguousarray(x[tuple(index)])

    def pullback(self, cotangent: Value, result: Value, *operands: Value) -> Cotangents:
        x, _ = operands
        return spread(cotangent, self.axis % x.rank, 0, 1, x.shape[self.axis]), None

    def is_linear(self, varying: Varying, operands: tuple[TensorType, ...], lead: int) -> bool:
        return not varying[1] and self.axis % operands[0].rank >= lead

    def lower(self, to: Lowering, *operands: str) -> str:
        x, n = operands
        name = dims.plain_name(self.size)
        start, axis, step = (to.constant([number], np.int64) for number in (0, self.axis, 1))
        return to.node("Slice", [x, start, n, axis, step], noted={"size": name} if name else {})

    @classmethod
    def read(cls, node: NodeView) -> Value:
        """The Value of a Slice with an end that is computed, if it was written with a name for it."""
        x, _, n, *_ = node.operands
        name, starts, axes = node.noted("size"), node.static_shape(1), node.static(3)
        if not isinstance(name, str) or x is None or n is None or starts != (0,) or axes is None or axes.size != 1:
            raise ValueError("Slice: the bounds have to be known or computed from dimensions")
        return apply(cls(int(axes[0]), dims.dim(name)), x, n)


def slice_to(x: Value, n: Value, size: Dim, axis: int = 0) -> Value:
    """The first ``n`` (an int64 vector of length 1) of ``x`` along ``axis``, called ``size`` as a dimension."""
    return apply(SliceTo(axis, size), x, n)
