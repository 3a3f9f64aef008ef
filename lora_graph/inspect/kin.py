"""Which Values of a graph are an adapter's: its parameters, and what is computed from them up to where it joins."""

from __future__ import annotations

from collections.abc import Collection

from lora_graph.ir.graph import Graph
from lora_graph.ir.leaves import Input, Parameter
from lora_graph.ir.value import Value


def adapter_values(graph: Graph, adapters: Collection[str]) -> frozenset[Value]:
    """The Values that belong to adapters, whose parameters and inputs are called ``adapters``.

    An op belongs to one if it takes what the model is given to the adapter's own weights, or if it goes on from there
    without anything of the base; where the result is added to what the base computes, it is the base's again.
    """
    ours: set[Value] = set()
    weights: set[Value] = set()  # of ours, those that depend on no data
    data: set[Value] = set()
    fixed: set[Value] = set()  # the same whatever is given
    for value in graph.values:
        op = value.op
        if isinstance(op, Input | Parameter):
            if op.label in adapters:
                weights.add(value)
                ours.add(value)
            elif isinstance(op, Input):
                data.add(value)
            continue
        operands = [operand for operand in value.operands if operand not in fixed]
        others = [operand for operand in operands if operand not in ours]
        if not operands:
            fixed.add(value)
        elif any(operand in data for operand in operands):
            data.add(value)
            is_entry = data.issuperset(others) and all(operand in weights for operand in operands if operand in ours)
            if not others or (is_entry and not weights.isdisjoint(operands)):
                ours.add(value)
        elif not others:
            weights.add(value)
            ours.add(value)
    return frozenset(ours)
