"""Fused ops: names for subgraphs, which everything about them follows from."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from lora_graph.ir.leaves import Constant, Input
from lora_graph.ir.op import Op
from lora_graph.ir.types import TensorType, Type
from lora_graph.ir.value import Value, apply, topological
from lora_graph.ops.base import store


class Fused(Op, abstract=True):
    """A name for the subgraph that ``decompose`` builds.

    Type, value and derivative follow from the decomposition; a subclass overrides what it has a faster or stabler
    form of. Where a runtime lacks the op for a dtype, the exporter lowers the decomposition instead.
    """

    def decompose(self, *operands: Any) -> Any:
        """The subgraph this op is a name for, on Values or on the holes of a pattern."""
        raise NotImplementedError(f"{self.name} has no decomposition")

    def _template(self, operands: tuple[TensorType, ...]) -> tuple[list[Value], Value]:
        holes = [apply(Input(f"operand{i}", type_)) for i, type_ in enumerate(operands)]
        return holes, self.decompose(*holes)

    def infer(self, *operands: TensorType) -> Type:
        return self._template(operands)[1].result_type

    def evaluate(self, *operands: Any, out: Any = None) -> Any:
        holes, order, result = _program(self, tuple(TensorType(a.dtype, a.shape) for a in operands))
        known: dict[Value, Any] = dict(zip(holes, operands, strict=True))
        for value in order:
            arrays = [known[operand] for operand in value.operands]
            known[value] = value.op.value if isinstance(value.op, Constant) else value.op.evaluate(*arrays)
        return store(known[result], out)

    @property
    def has_pullback(self) -> bool:
        return type(self).pullback is not Op.pullback


@lru_cache(maxsize=256)
def _program(op: Fused, operands: tuple[TensorType, ...]) -> tuple[list[Value], list[Value], Value]:
    """The operands, the Values to compute in order, and the result of what ``op`` is a name for."""
    holes, result = op._template(operands)
    return holes, topological([result], stop=set(holes).__contains__), result
