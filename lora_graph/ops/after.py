"""A Value once more, later: what a graph computes again rather than keeps."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from lora_graph.ir.op import Lowering, Op
from lora_graph.ir.types import TensorType
from lora_graph.ir.value import Value, apply
from lora_graph.ops.base import Cotangents, Varying


class After(Op):
    """y = x, to be had only when ``mark``, the second operand, has been computed.

    What is built on it is another Value than what is built on x, and runs after ``mark``. ONNX has no such op: it is a
    Reshape of x to a shape of zeros, which keeps every axis, and these zeros are computed from the shape of ``mark``.
    Runtimes neither copy anything for that nor do they see that it changes nothing.
    """

    view: ClassVar[bool] = True

    def infer(self, *operands: TensorType) -> TensorType:
        x, _ = operands
        return x

    def evaluate(self, *operands: Any, out: Any = None) -> Any:
        return operands[0].view()

    def pullback(self, cotangent: Value, result: Value, *operands: Value) -> Cotangents:
        return cotangent, None

    def is_linear(self, varying: Varying, operands: tuple[TensorType, ...], lead: int) -> bool:
        return varying[0]

    def lower(self, to: Lowering, *operands: str) -> str:
        x, mark = operands
        if not to.type(mark).rank:
            return to.node("Identity", [x])
        size = to.node("Shape", [mark], {"start": 0, "end": 1})
        zeros = to.node("Mul", [size, to.constant(np.zeros(to.type(x).rank), np.int64)])
        return to.node("Reshape", [x, zeros])


def after(x: Value, mark: Value) -> Value:
    """``x``, but not before ``mark`` has been computed."""
    return apply(After(), x, mark)
