"""Which Values of a graph are an adapter's: its parameters, and what is computed from them up to where it joins."""

from __future__ import annotations

from collections.abc import Collection

from lora_graph.ir.graph import Graph
from lora_graph.ir.leaves import Input, Parameter
from lora_graph.ir.value import Value


def adapter_values(graph: Graph, adapters: Collection[str]) -> frozenset[Value]:
    """The Values that belong to adapters, whose parameters are called ``adapters``.

    An op belongs to one if it takes an input of the model to the adapter's own weights, or if it goes on from there
    without anything of the base; where the result is added to what the base computes, it is the base's again.
    """
    ours: set[Value] = set()
    weights: set[Value] = set()
    data: set[Value] = set()
    for value in graph.values:
        op, operands = value.op, value.operands
        if isinstance(op, Parameter) and op.label in adapters:
            ours.add(value)
            weights.add(value)
        if isinstance(op, Input):
            data.add(value)
        if not operands:
            continue
        if any(operand in data for operand in operands):
            data.add(value)
        others = [operand for operand in operands if operand not in ours and _is_computed(operand)]
        mine = any(operand in ours for operand in operands)
        if mine and not others:
            ours.add(value)
            if value not in data:
                weights.add(value)
        elif value in data and any(operand in weights for operand in operands):
            ours.update(() if any(isinstance(operand.op, Parameter) for operand in others) else (value,))
    return frozenset(ours)


def _is_computed(value: Value) -> bool:
    """Whether a Value is more than a constant or the size of a dimension."""
    return bool(value.operands) or isinstance(value.op, Input | Parameter)
