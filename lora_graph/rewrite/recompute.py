"""Recomputation: what would only wait for the backward pass while memory is short is computed again instead.

Where most is held, Values that nobody reads for a while, and that follow from others which are there anyway, are let go
and computed again right before they are read: those that free the most bytes for the least work first. A Value that is
computed again rests on an After, so that it is another one than the first time and comes later.

Chen et al., 2016, "Training Deep Nets with Sublinear Memory Cost"; which Values is decided by cost here.
"""

from __future__ import annotations

from collections import ChainMap, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

from lora_graph.interpret.nodes import Kind
from lora_graph.ir.graph import Graph, Note
from lora_graph.ir.leaves import Parameter
from lora_graph.ir.types import TensorType
from lora_graph.ir.value import Value, apply, topological
from lora_graph.ops.after import after
from lora_graph.rewrite.timeline import Timeline

SHARE = 0.1
"""How much more work a graph may become, by default."""
RULE = "recompute"


def recompute(graph: Graph, sizes: Mapping[str, int] | None = None, share: float = SHARE) -> Graph:
    """``graph`` with Values computed again where that lowers the most memory it needs at one time.

    ``sizes`` are those of named dimensions, which otherwise count as 64. The work, estimated from types, grows by
    ``share`` at most; every output stays the same, bit for bit. Where nothing is to be gained it is ``graph`` itself.
    """
    timeline = Timeline(graph, sizes or {})
    before = timeline.peak
    timeline.let_go(share * timeline.work)
    if not timeline.gaps:
        return graph
    new = _Rebuilding(graph, timeline).run()
    return new if Timeline(new, sizes or {}).peak < before else graph


class _Rebuilding:
    """One walk over the steps of a timeline; ``now`` is what every node's Value has become up to there."""

    def __init__(self, graph: Graph, timeline: Timeline) -> None:
        self.graph = graph
        self.timeline = timeline
        self.now = {node.value: node.value for node in timeline.nodes if node.kind in (Kind.GIVEN, Kind.HELD)}
        self.notes = dict(graph.notes)

    def run(self) -> Graph:
        nodes, gaps = self.timeline.nodes, self.timeline.gaps
        due: dict[int, list[int]] = defaultdict(list)
        for i in sorted(gaps):
            due[gaps[i].again].append(i)
        marks = self._marks()
        mark: Value | None = None
        for step, unit in enumerate(self.timeline.units):
            if mark is not None:
                for i in due[step]:
                    self._again(i, step, mark)
            for i in unit:
                self.now[nodes[i].value] = self._renewed(nodes[i].value, self.now, ())
            if step in marks:
                mark = self.now[nodes[marks[step]].value]
        outputs = {name: _on(value, self.now) for name, value in self.graph.outputs.items()}
        return self.graph.with_outputs(outputs, self.notes)

    def _marks(self) -> dict[int, int]:
        """By step, the nodes that tell how far a run is: none before had as many nodes behind one another.

        Their first axis is a named one where there is any such axis, because it is not known before the run.
        """
        nodes, gaps, depths = self.timeline.nodes, self.timeline.gaps, self.timeline.depths()
        plain = [[i for i in unit if i not in gaps and _rank(nodes[i].value)] for unit in self.timeline.units]
        named = [[i for i in unit if not isinstance(nodes[i].value.shape[0], int)] for unit in plain]
        marks: dict[int, int] = {}
        deepest = -1
        for step, unit in enumerate(named if any(named) else plain):
            best = max(unit, key=depths.__getitem__, default=None)
            if best is not None and depths[best] >= deepest:
                marks[step], deepest = best, depths[best]
        return marks

    def _again(self, node: int, step: int, mark: Value) -> None:
        """Compute ``node`` a second time for ``step``, after ``mark``."""
        nodes, chain = self.timeline.nodes, self.timeline.chain(node, step)
        assert chain is not None
        late: dict[Value, Value] = {}
        known = ChainMap(late, self.now)
        for i in chain:
            for source in self._delayed(i, step, chain):
                late[nodes[source].value] = after(self.now[nodes[source].value], mark)
            late[nodes[i].value] = self._renewed(nodes[i].value, known, (RULE,))
        self.now[nodes[node].value] = late[nodes[node].value]

    def _delayed(self, i: int, step: int, chain: Sequence[int]) -> list[int]:
        """Which sources of a node have to come late, so that it does: all that are computed, or else any."""
        nodes, gaps = self.timeline.nodes, self.timeline.gaps
        old = [s for s in self.timeline.sources(i) if s not in chain and not (s in gaps and gaps[s].again == step)]
        computed = [s for s in old if nodes[s].kind is not Kind.HELD and not isinstance(nodes[s].op, Parameter)]
        return computed or (old[:1] if len(old) == len(self.timeline.sources(i)) else [])

    def _renewed(self, value: Value, known: Mapping[Value, Value], rules: tuple[str, ...]) -> Value:
        """``value`` on what is ``known`` of its operands; it takes the note along."""
        operands = tuple(_on(operand, known) for operand in value.operands)
        if operands == value.operands:
            return value
        new: Value = apply(value.op, *operands)
        note = self.graph.notes.get(value, Note())
        self.notes.setdefault(new, replace(note, rules=(*note.rules, *rules)))
        return new


def _rank(value: Value) -> int:
    return value.rank if isinstance(value.result_type, TensorType) else 0


def _on(value: Value, known: Mapping[Value, Value]) -> Value:
    """``value``, which is known or a view, on what is known."""
    found: dict[Value, Value] = {}
    for view in topological([value], stop=known.__contains__):
        operands = tuple(found[o] if o in found else known[o] for o in view.operands)
        found[view] = view if operands == view.operands else apply(view.op, *operands)
    return found[value] if value in found else known[value]
