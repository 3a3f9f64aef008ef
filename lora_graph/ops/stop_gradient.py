"""Where the gradient ends: what a training step is to take as a constant, although it is computed from parameters."""

from __future__ import annotations

from typing import Any, ClassVar

from lora_graph.ir.op import Lowering, Op
from lora_graph.ir.types import TensorType
from lora_graph.ir.value import Value, apply
from lora_graph.ops.base import Cotangents, Varying


class StopGradient(Op):
    """y = x, with no derivative. ONNX has no such op: it is an Identity, noted so that a reader knows."""

    view: ClassVar[bool] = True

    def infer(self, *operands: TensorType) -> TensorType:
        (x,) = operands
        return x

    def evaluate(self, *operands: Any, out: Any = None) -> Any:
        return operands[0].view()

    def pullback(self, cotangent: Value, result: Value, *operands: Value) -> Cotangents:
        return (None,)

    def is_linear(self, varying: Varying, operands: tuple[TensorType, ...], lead: int) -> bool:
        return True

    def lower(self, to: Lowering, *operands: str) -> str:
        return to.node("Identity", operands, noted={STOPS: 1})


STOPS = "stop_gradient"
"""The note on an Identity that stands for a StopGradient."""


def stop_gradient(x: Value) -> Value:
    """``x`` as a constant of differentiation."""
    return apply(StopGradient(), x)
