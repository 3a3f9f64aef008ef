"""The module that a difference belongs to."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

from lora_graph.ir.graph import Graph
from lora_graph.ir.leaves import Parameter
from lora_graph.ir.value import Value


class Whereabouts:
    """Modules of Values, by the names that the ``left`` graph has for them.

    What one graph has and the other lacks altogether, such as an adapter, belongs to the module that uses it.
    """

    def __init__(self, left: Graph, right: Graph, matches: Mapping[Value, Value]) -> None:
        self._graphs = left, right
        pairs = [(_scope(left, p), _scope(right, q)) for p, q in matches.items()]
        self._order = {name: number for number, name in enumerate(_scope(left, value) for value in left.values)}
        self._own: dict[str, str] = {name: name for name, _ in pairs if name}
        self._theirs: dict[str, str] = {}
        for name, other in pairs:
            if other:
                self._theirs.setdefault(other, name or other)

    def left(self, value: Value) -> str:
        return self._left[value]

    def right(self, value: Value) -> str:
        return self._right[value]

    def rank(self, name: str) -> tuple[int, str]:
        """What to sort modules by: their place in the left graph, others last."""
        return self._order.get(name, len(self._order)), name

    @cached_property
    def _left(self) -> dict[Value, str]:
        return _modules(self._graphs[0], self._own)

    @cached_property
    def _right(self) -> dict[Value, str]:
        return _modules(self._graphs[1], self._theirs)


def _modules(graph: Graph, known: Mapping[str, str]) -> dict[Value, str]:
    """For each Value the known name of its module; where that is not known, that of its first user; else its own."""
    found: dict[Value, str] = {}
    for value in reversed(graph.values):
        scope = _scope(graph, value)
        found[value] = name = known.get(scope) or found.get(value) or scope
        for operand in value.operands:
            found[operand] = name
    return found


def _scope(graph: Graph, value: Value) -> str:
    """The module that is noted for ``value``; for a parameter the one that is in its name."""
    if isinstance(value.op, Parameter):
        return value.op.label.rpartition(".")[0]
    note = graph.notes.get(value)
    return note.scope if note else ""
