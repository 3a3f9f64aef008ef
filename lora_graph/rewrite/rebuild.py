"""Building a graph again, with other Values in some places."""

from __future__ import annotations

from collections.abc import Callable

from lora_graph.ir.graph import Graph, Note
from lora_graph.ir.value import Value, apply, topological

Build = Callable[[Value, tuple[Value, ...]], Value | None]


def rebuilt(graph: Graph, build: Build) -> Graph:
    """``graph`` with what ``build`` makes of each Value and its new operands, where that is anything.

    What it makes belongs to the module that the Value belongs to.
    """
    new: dict[Value, Value] = {}
    notes: dict[Value, Note] = {}
    for value in graph.values:
        operands = tuple(new[operand] for operand in value.operands)
        made = build(value, operands)
        note = graph.notes.get(value)
        if made is None:
            made = value if operands == value.operands else apply(value.op, *operands)
        elif note is not None:
            for inner in topological(made.operands, stop=operands.__contains__):
                if inner.operands:
                    notes.setdefault(inner, Note(scope=note.scope))
        new[value] = made
        if note is not None:
            notes.setdefault(made, note)
    return graph.with_outputs({name: new[value] for name, value in graph.outputs.items()}, notes)
