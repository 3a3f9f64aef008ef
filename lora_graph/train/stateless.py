"""Steps as functions without state: what a step changes goes in by its name and comes out as ``next/`` and its name."""

from __future__ import annotations

from collections.abc import Collection

from lora_graph.ir.graph import Graph, replace
from lora_graph.ir.leaves import Input
from lora_graph.ir.value import Value, apply
from lora_graph.train.graph import LOSS, NORM

NEXT = "next/"
"""What the output that replaces a piece of state begins with."""


def stateless(graph: Graph, fixed: Collection[str]) -> Graph:
    """The step ``graph`` with its parameters, all but those in ``fixed``, as inputs.

    Every output but the loss and the norm of the gradient is called ``next/`` and the name of what it replaces.
    """
    function = parameters_as_inputs(graph, fixed)
    renamed = {(name if name in (LOSS, NORM) else f"{NEXT}{name}"): v for name, v in function.outputs.items()}
    return function.with_outputs(renamed)


def parameters_as_inputs(graph: Graph, fixed: Collection[str]) -> Graph:
    """``graph`` with an input for each parameter that is not in ``fixed``."""
    leaves: dict[Value, Value] = {
        leaf: apply(Input(name, leaf.type)) for name, leaf in graph.parameters.items() if name not in fixed
    }
    noted = [value for value in graph.notes if value in graph.users]
    made = replace([*graph.outputs.values(), *noted], leaves)
    outputs = dict(zip(graph.outputs, made, strict=False))
    notes = {value: graph.notes[old] for old, value in zip(noted, made[len(outputs) :], strict=True)}
    return Graph((*graph.inputs, *leaves.values()), outputs, notes, graph.name)
