"""Imported models with some of their Values exchanged."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from lora_graph.ir.graph import Note
from lora_graph.ir.types import Array
from lora_graph.ir.value import Value, apply
from lora_graph.layers.imported import ImportedLayer


def rebuilt(
    model: ImportedLayer, change: Callable[[Value, list[Value]], Value | None], arrays: Mapping[str, Array]
) -> ImportedLayer:
    """``model`` with each Value of its graph as ``change(value, operands)`` has it on its new operands.

    None leaves the op what it is. ``arrays`` are new parameters and new values of old ones. What a note says of a Value
    is true of the one that takes its place.
    """
    graph = model.to_graph()
    new: dict[Value, Value] = {}
    notes: dict[Value, Note] = {}
    for value in graph.values:
        operands = [new[operand] for operand in value.operands]
        built = change(value, operands)
        if built is None:
            built = value if tuple(operands) == value.operands else apply(value.op, *operands)
        new[value] = built
        if value in graph.notes:
            notes.setdefault(built, graph.notes[value])
    outputs = {name: new[value] for name, value in graph.outputs.items()}
    return ImportedLayer(graph.with_outputs(outputs, notes), {**model.state, **arrays}, model.metadata)
