"""What is computed before any run: all that depends on constants, dimensions and fixed parameters alone."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from lora_graph.interpret.reference import compute
from lora_graph.ir.graph import Graph, substitute_dims
from lora_graph.ir.leaves import Absent, Constant, Dimension, Parameter
from lora_graph.ir.types import Array, TensorType
from lora_graph.ir.value import Value


class Early:
    """The Values known before a run that it needs: those without named dimensions, and those that depend on them."""

    def __init__(self, graph: Graph, fixed: Collection[str], names: Collection[str]) -> None:
        early: set[Value] = set()
        depends: set[Value] = set()
        probe = dict.fromkeys(names, 1)
        for value in graph.values:
            if _is_early(value, early, fixed):
                early.add(value)
                if any(operand in depends for operand in value.operands) or (names and _has_names(value, probe)):
                    depends.add(value)
        needed = [v for v in graph.outputs.values() if v in early]
        needed += [o for value in graph.values if value not in early for o in value.operands if o in early]
        ready = [o for value in depends for o in value.operands if o not in depends]
        wanted = dict.fromkeys(v for v in needed if isinstance(v.result_type, TensorType))
        self.by_dims = [value for value in wanted if value in depends]
        self.free = list(dict.fromkeys([*(value for value in wanted if value not in depends), *ready]))

    def compute(self, fixed: Mapping[Value, Array]) -> dict[Value, Array]:
        """The Values without named dimensions, from the arrays of the fixed parameters."""
        return _evaluated(self.free, fixed, {})

    def compute_bound(self, free: Mapping[Value, Array], sizes: Mapping[str, int]) -> dict[Value, Array]:
        """All early Values that a run needs, for these sizes."""
        return {**free, **_evaluated(self.by_dims, free, sizes)}


def _evaluated(values: list[Value], known: Mapping[Value, Array], sizes: Mapping[str, int]) -> dict[Value, Array]:
    arrays = dict(known)
    compute(values, arrays, sizes)
    return {value: arrays[value] for value in values}


def _is_early(value: Value, early: set[Value], fixed: Collection[str]) -> bool:
    match value.op:
        case Constant() | Dimension() | Absent():
            return True
        case Parameter(label=label):
            return label in fixed
    return bool(value.operands) and value.op.is_pure and all(operand in early for operand in value.operands)


def _has_names(value: Value, probe: Mapping[str, int]) -> bool:
    if isinstance(value.op, Dimension | Parameter):
        return isinstance(value.op, Dimension)
    is_static = isinstance(value.result_type, TensorType) and value.result_type.is_static
    return not is_static or substitute_dims(value.op, probe) is not value.op
