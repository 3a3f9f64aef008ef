"""The same computation in float64: what everything that computes in fewer bits is measured against."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from lora_graph.ir.graph import Graph
from lora_graph.ir.leaves import Constant, Project, project
from lora_graph.ir.op import Op
from lora_graph.ir.opaque import Opaque
from lora_graph.ir.types import Array, TensorType, TupleType, Type
from lora_graph.ir.value import Value, apply

WIDE = np.dtype(np.float64)


@dataclass(frozen=True)
class Widened:
    """``graph`` in float64, the Value in it for each of the original, and the original ones that kept their precision.

    Those are what ONNX Runtime evaluates, and whatever has no float64: their operands are rounded, their results not.
    """

    graph: Graph
    values: Mapping[Value, Value]
    narrow: tuple[Value, ...]


def widened(graph: Graph) -> Widened:
    """``graph`` with float64 for every float, casts between floats included."""
    new: dict[Value, Value] = {}
    narrow: list[Value] = []
    for value in graph.values:
        operands = [new[operand] for operand in value.operands]
        if isinstance(value.op, Project):
            new[value] = _cast(project(operands[0], value.op.index), value.type)
            continue
        wide = _widened(value, operands)
        if wide is None:
            narrow.append(value)
            pairs = zip(operands, value.operands, strict=True)
            rounded = [operand.astype(old.dtype) if _is_tensor(old) else operand for operand, old in pairs]
            wide = apply(value.op, *rounded)
            wide = _cast(wide, value.type) if _is_tensor(value) else wide
        new[value] = wide
    inputs = tuple(new[leaf] for leaf in graph.inputs)
    outputs = {name: new[value] for name, value in graph.outputs.items()}
    return Widened(Graph(inputs, outputs, name=graph.name), new, tuple(narrow))


def widened_state(state: Mapping[str, Array]) -> dict[str, Array]:
    """The arrays of ``state`` with floats as float64."""
    return {name: array.astype(WIDE) if _is_float(array.dtype) else array for name, array in state.items()}


def _widened(value: Value, operands: list[Value]) -> Value | None:
    """``value`` of wide operands; None where the op has no such form."""
    if isinstance(value.op, Constant):
        return _cast(value, value.type)
    if isinstance(value.op, Opaque):
        return None
    try:
        wide: Value = apply(_wide_op(value.op), *operands)
    except (TypeError, ValueError):  # what type inference says of an op that does not take float64
        return None
    return wide if wide.result_type == _wide_type(value.result_type) else None


def _cast(value: Value, like: TensorType) -> Value:
    return value.astype(WIDE) if like.is_float else value


def _wide_op(op: Op) -> Op:
    old = op.attributes().values()
    new = [_wide_attribute(attribute) for attribute in old]
    return op if all(a is b for a, b in zip(old, new, strict=True)) else type(op)(*new)


def _wide_attribute(attribute: Any) -> Any:
    match attribute:
        case np.dtype():
            return WIDE if _is_float(attribute) else attribute
        case TensorType():
            return _wide_type(attribute)
        case Graph():
            return widened(attribute).graph
    return attribute


def _wide_type(kind: Type) -> Type:
    if isinstance(kind, TupleType):
        return TupleType(tuple(item.with_dtype(WIDE) if item.is_float else item for item in kind.items))
    return kind.with_dtype(WIDE) if kind.is_float else kind


def _is_tensor(value: Value) -> bool:
    return isinstance(value.result_type, TensorType)


def _is_float(dtype: np.dtype[Any]) -> bool:
    return TensorType(dtype, ()).is_float
