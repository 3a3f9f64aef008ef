"""Stages: which Values after a pass continue Values before it, and from which the others were made."""

from __future__ import annotations

from collections import deque
from collections.abc import Container, Iterable, Mapping

from lora_graph.ir.graph import Graph
from lora_graph.ir.value import Value

MOST_SOURCES = 24


def align(old: Graph, new: Graph) -> dict[Value, Value]:
    """For Values of ``new`` that ``old`` lacks, the Value of ``old`` that they continue: the same op on other operands.

    A rewrite somewhere gives everything that depends on it another identity. Pairs are found upwards from equal
    operands, by the name that they have in both, downwards from outputs and from pairs, and last by an operand in
    common; in linear time.
    """
    return _Alignment(old, new).run()


class _Alignment:
    def __init__(self, old: Graph, new: Graph) -> None:
        kept = set(new.values) & set(old.values)
        self._old, self._new = old, new
        self._gone = {value for value in old.values if value not in kept and value.operands}
        self._fresh = [value for value in new.values if value not in kept and value.operands]
        self._pairs: dict[Value, Value] = {}
        self._taken: set[Value] = set()

    def run(self) -> dict[Value, Value]:
        self._same_operands()
        self._same_name()
        self._down(
            (value, self._old.outputs[name]) for name, value in self._new.outputs.items() if name in self._old.outputs
        )
        self._common_operand()
        self._same_operands()
        self._down(list(self._pairs.items()))
        return self._pairs

    def _pair(self, new: Value, old: Value) -> bool:
        """Make them a pair if nothing speaks against it."""
        if new in self._pairs or old in self._taken or old not in self._gone:
            return False
        if new.op != old.op or new.result_type != old.result_type:
            return False
        self._pairs[new] = old
        self._taken.add(old)
        return True

    def _same_operands(self) -> None:
        """The same op on operands that are the same or pairs."""
        at = {(value.op, value.operands): value for value in self._old.values if value in self._gone}
        pairs = self._pairs
        for value in self._fresh:
            if value not in pairs:
                found = at.get((value.op, tuple([pairs.get(operand, operand) for operand in value.operands])))
                if found is not None:
                    self._pair(value, found)

    def _same_name(self) -> None:
        """The same op under a name that only one value has, before and after."""
        before, after = (_by_name(graph) for graph in (self._old, self._new))
        for value in self._fresh:
            name = self._new.notes[value].name if value in self._new.notes else ""
            old = before.get(name)
            if name and old is not None and after.get(name) is value:
                self._pair(value, old)

    def _down(self, starts: Iterable[tuple[Value, Value]]) -> None:
        """From pairs to their operands, as far as the ops agree."""
        fresh = set(self._fresh)
        stack = list(starts)
        seen: set[Value] = set()
        while stack:
            new, old = stack.pop()
            if new in seen or new not in fresh:
                continue
            if self._pairs.get(new) is old or self._pair(new, old):
                seen.add(new)
                stack += zip(new.operands, old.operands, strict=False)

    def _common_operand(self) -> None:
        """The same op with one operand that is the same or a pair."""
        users: dict[tuple[object, ...], list[Value]] = {}
        for value in reversed(self._old.values):
            if value in self._gone and value not in self._taken:
                for operand in value.operands:
                    users.setdefault((operand, value.op), []).append(value)
        for value in self._fresh:
            for operand in value.operands if value not in self._pairs else ():
                waiting = users.get((self._pairs.get(operand, operand), value.op), [])
                while waiting and waiting[-1] in self._taken:
                    waiting.pop()
                if waiting and self._pair(value, waiting[-1]):
                    break


def _by_name(graph: Graph) -> dict[str, Value | None]:
    """The Value that has a name, None where several have it."""
    found: dict[str, Value | None] = {}
    for value, note in graph.notes.items():
        found[note.name] = None if note.name in found else value
    return found


def replaced(old: Graph, new: Graph, pairs: Mapping[Value, Value]) -> dict[Value, tuple[Value, ...]]:
    """For each Value of ``new`` that neither is in ``old`` nor continues one there, those of ``old`` it was made from.

    A new Value stands where an old one did if what uses them is a pair. It was made from that one and from what only
    led there and is gone as well; so were the new Values before it.
    """
    before, after, continuing = set(old.values), set(new.values), set(pairs.values())
    is_gone = {value for value in old.values if value.operands and value not in after and value not in continuing}
    kept_pairs = [(value, pairs[value]) for value in new.values if value in pairs]
    stands: dict[Value, Value] = {}
    for name, value in new.outputs.items():
        if name in old.outputs:
            stands.setdefault(value, old.outputs[name])
    for one, other in kept_pairs:
        for mine, its in zip(one.operands, other.operands, strict=False):
            stands.setdefault(mine, its)
    is_made = {value for value in new.values if value not in before and value not in pairs and value.operands}
    found: dict[Value, tuple[Value, ...]] = {}
    for value in reversed(new.values):
        was = stands.get(value)
        if was is not None and was is not pairs.get(value) and (was in is_gone or value in is_made):
            found.setdefault(value, _region(was, is_gone))
        for operand in value.operands if value in found else ():
            if operand in is_made and stands.get(operand) not in is_gone:
                found[operand] = found[value]
    return {value: sources for value, sources in found.items() if value in is_made}


def _region(root: Value, is_gone: Container[Value]) -> tuple[Value, ...]:
    """``root`` and what leads to it through Values that are gone, nearest first."""
    found = {root: None}
    queue = deque([root] if root in is_gone else [])
    while queue and len(found) < MOST_SOURCES:
        for operand in queue.popleft().operands:
            if operand in is_gone and operand not in found:
                found[operand] = None
                queue.append(operand)
    return tuple(found)
