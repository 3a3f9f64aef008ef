"""Fused ops: names for subgraphs, which everything about them follows from."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any, ClassVar

from lora_graph.ir.leaves import Input
from lora_graph.ir.op import Op
from lora_graph.ir.types import TensorType, TupleType, Type
from lora_graph.ir.value import Value, apply, topological
from lora_graph.ops.base import store


class Fused(Op, abstract=True):
    """A name for the subgraph that ``decompose`` builds.

    Type, value and derivative follow from the decomposition; a subclass overrides what it has a faster or stabler
    form of.
    """

    spelled_out: ClassVar[bool] = True
    """Whether the exporter writes the decomposition where a runtime lacks the op for a dtype."""

    def decompose(self, *operands: Any) -> Any:
        """The subgraph this op is a name for, on Values or on the holes of a pattern; a tuple for several results."""
        raise NotImplementedError(f"{self.name} has no decomposition")

    def _template(self, operands: tuple[TensorType, ...]) -> tuple[list[Value], Any]:
        holes = [apply(Input(f"operand{i}", type_)) for i, type_ in enumerate(operands)]
        return holes, self.decompose(*holes)

    def infer(self, *operands: TensorType) -> Type:
        spelled = self._template(operands)[1]
        if isinstance(spelled, tuple):
            return TupleType(tuple(result.type for result in spelled))
        return spelled.type  # type: ignore[no-any-return]

    def evaluate(self, *operands: Any, out: Any = None) -> Any:
        holes, order, spelled = _program(self, tuple(TensorType(a.dtype, a.shape) for a in operands))
        known: dict[Value, Any] = dict(zip(holes, operands, strict=True))
        evaluate_values(order, known)
        if isinstance(spelled, tuple):
            targets = out or (None,) * len(spelled)
            return tuple(store(known[result], target) for result, target in zip(spelled, targets, strict=True))
        return store(known[spelled], out)

    def flops(self, result: Type, *operands: TensorType) -> Any:
        return super().flops(result, *operands) if self.elementwise else _work(self, operands)

    @property
    def has_pullback(self) -> bool:
        return type(self).pullback is not Op.pullback


def results_of(spelled: Any) -> tuple[Value, ...]:
    """What ``decompose`` gave, as a tuple."""
    return spelled if isinstance(spelled, tuple) else (spelled,)


def evaluate_values(order: Iterable[Value], known: dict[Value, Any]) -> None:
    """Add the arrays of the Values in ``order``, operands first, to ``known``."""
    for value in order:
        known[value] = value.op.evaluate(*[known[operand] for operand in value.operands])


@lru_cache(maxsize=1024)
def _work(op: Fused, operands: tuple[TensorType, ...]) -> Any:
    """The operations of all that ``op`` is a name for, but of what depends on none of the operands."""
    holes, spelled = op._template(operands)
    dependent = set(holes)
    for value in topological(results_of(spelled)):
        if any(operand in dependent for operand in value.operands):
            dependent.add(value)
    return sum(value.flops for value in dependent)


@lru_cache(maxsize=256)
def _program(op: Fused, operands: tuple[TensorType, ...]) -> tuple[list[Value], list[Value], Any]:
    """The operands, the Values to compute in order, and the result of what ``op`` is a name for."""
    holes, spelled = op._template(operands)
    return holes, topological(results_of(spelled), stop=set(holes).__contains__), spelled
