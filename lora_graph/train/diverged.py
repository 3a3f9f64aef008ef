"""Where a step that is not finite stops being so: the same step again, value by value."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from lora_graph.interpret.reference import compute
from lora_graph.interpret.signature import Signature
from lora_graph.ir.graph import Graph, Note
from lora_graph.ir.leaves import Constant, Input, Parameter
from lora_graph.ir.types import Array
from lora_graph.ir.value import Value


def first_not_finite(graph: Graph, inputs: Mapping[str, Array], state: Mapping[str, Array]) -> str:
    """The value at which what is not finite begins, on the way to some output; "" where every output is finite.

    It is the first, operands before users, that is not finite although its operands are. What is meant to be infinite
    on the way to something finite, such as the scores that a mask hides, does not count.
    """
    signature = Signature(graph)
    arrays = signature.arrays(inputs, state)
    sizes = dict(signature.bind(arrays))
    known: dict[Value, Any] = {port.leaf: array for port, array in zip(signature.ports, arrays, strict=True)}
    left = dict(graph.users)
    found: dict[Value, str] = {}
    for value in graph.values:
        compute([value], known, sizes)
        problem = _problem(known[value])
        if problem:
            found[value] = problem
        for operand in value.operands:
            left[operand] -= 1
            if not left[operand]:
                del known[operand]
    guilty = _origins([value for value in graph.outputs.values() if value in found], found)
    first = next((value for value in graph.values if value in guilty), None)
    return "" if first is None else f"{_label(first, graph.notes.get(first, Note()))}, {found[first]}"


def _origins(outputs: Collection[Value], found: Collection[Value]) -> set[Value]:
    """Of the values in ``found`` on the way to ``outputs``, those none of whose operands is in it."""
    origins: set[Value] = set()
    seen, pending = set(outputs), list(outputs)
    while pending:
        value = pending.pop()
        before = [o for o in value.operands if o in found and not isinstance(o.op, Constant)]
        if not before:
            origins.add(value)
        pending += [operand for operand in before if operand not in seen]
        seen.update(before)
    return origins


def _problem(computed: Any) -> str:
    """What is the first number in an array that is not finite, and where."""
    if not isinstance(computed, np.ndarray) or computed.dtype.kind != "f":
        return ""
    bad = ~np.isfinite(computed)
    if not bad.any():
        return ""
    index = tuple(map(int, np.argwhere(bad)[0]))
    return f"{computed[index]} at {list(index)}" if index else str(computed[()])


def _label(value: Value, note: Note) -> str:
    if isinstance(value.op, Input | Parameter):
        return f"{'input' if isinstance(value.op, Input) else 'parameter'} {value.op.label!r}"
    place = f" in {note.scope}" if note.scope else ""
    return f"{value.op.name}{place} ({value.type})"
