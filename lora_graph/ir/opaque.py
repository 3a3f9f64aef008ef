"""Ops that this package does not know: carried along as they were written, and run by whoever knows them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NoReturn

from lora_graph.ir.op import Lowering, Op
from lora_graph.ir.types import Array, TensorType, TupleType, Type
from lora_graph.ir.value import Value

OPERAND, RESULT = "operand", "result"
"""What the operands and results are called inside ``node``: operand0, operand1 …, result0 …"""


@dataclass(frozen=True, eq=False)
class Opaque(Op):
    """The results of the ONNX node ``node`` (a NodeProto as bytes), of which only the types are known.

    It was written for version ``opset`` of ONNX's own ops, and of ``version`` of those of its ``domain``. What its
    subgraphs use of what is around them is among the operands. A node that draws random numbers has a ``token`` that no
    other has, so that two of them never become one, and none is computed ahead of time.
    """

    op_type: str
    node: bytes
    results: tuple[TensorType, ...]
    opset: int
    domain: str = ""
    version: int = 1
    token: str = ""
    runner: ClassVar[Callable[[Opaque, Sequence[Array]], tuple[Array, ...]] | None] = None
    """What evaluates such nodes; lora_graph.onnx puts it here."""

    @property
    def is_pure(self) -> bool:
        return not self.token

    @property
    def label(self) -> str:
        return f"{self.domain}::{self.op_type}" if self.domain else self.op_type

    def infer(self, *operands: TensorType) -> Type:
        return self.results[0] if len(self.results) == 1 else TupleType(self.results)

    def evaluate(self, *operands: Array, out: Array | None = None) -> Any:
        if Opaque.runner is None:
            raise RuntimeError(f"{self.label} is run by ONNX Runtime: import lora_graph.onnx first")
        found = Opaque.runner(self, operands)
        return found[0] if len(self.results) == 1 else found

    def pullback(self, cotangent: Value, result: Value, *operands: Value) -> NoReturn:
        raise ValueError(f"{self.label} has no derivative: it is an op that lora_graph only carries along")

    def lower(self, to: Lowering, *operands: str) -> str:
        return to.verbatim(self, operands)
