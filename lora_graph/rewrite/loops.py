"""Loops: recurrent ops spelled out, results that nobody uses dropped, and the rules applied inside bodies, too."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Sequence

from lora_graph.ir.graph import Graph
from lora_graph.ir.leaves import Project, project
from lora_graph.ir.value import Value, apply, topological
from lora_graph.ops.recurrence import Recurrent
from lora_graph.ops.scan import Scan
from lora_graph.rewrite.engine import rewrite
from lora_graph.rewrite.fold import fold_constants
from lora_graph.rewrite.pattern import any_op
from lora_graph.rewrite.rebuild import rebuilt
from lora_graph.rewrite.record import PassRecord
from lora_graph.rewrite.rule import Facts, Outcome, Rule, rule

Step = tuple[Graph, None, PassRecord]


@rule(lambda several: any_op(Project, several, name="result"), free=True)
def spell_recurrent(facts: Facts, several: Value, result: Value) -> Outcome:
    """A result of LSTM, GRU or RNN → that of its loop, which a gradient refers to as well"""
    if not isinstance(several.op, Recurrent):
        return None
    assert isinstance(result.op, Project)
    return several.op.decompose(*several.operands)[result.op.index]


def trim_loops(graph: Graph) -> Step:
    """Every Scan without the results that nobody uses, and without what only these needed."""
    started = time.perf_counter()
    used: dict[Value, set[int]] = {}
    for value in graph.values:
        if isinstance(value.op, Project) and isinstance(value.operands[0].op, Scan):
            used.setdefault(value.operands[0], set()).add(value.op.index)
    places: dict[Value, dict[int, int]] = {}

    def trimmed(value: Value, operands: tuple[Value, ...]) -> Value | None:
        if value in used:
            assert isinstance(value.op, Scan)
            op, taken, kept = _trimmed(value.op, used[value])
            places[value] = {index: place for place, index in enumerate(kept)}
            return apply(op, *(operands[i] for i in taken))
        if isinstance(value.op, Project) and value.operands[0] in places:
            return project(operands[0], places[value.operands[0]][value.op.index])
        return None

    new = rebuilt(graph, trimmed) if used else graph
    fired = sum(len(value.op.results) - len(places[value]) for value in used if isinstance(value.op, Scan))
    record = PassRecord("trim loops", graph, new, {"drop result": fired} if fired else {})
    return new, None, _timed(record, started)


def rewrite_bodies(graph: Graph, rules: Sequence[Rule]) -> Step:
    """``rules`` applied inside every Scan, and constants folded."""
    started, fired = time.perf_counter(), Counter[str]()

    def rewritten(value: Value, operands: tuple[Value, ...]) -> Value | None:
        if not isinstance(value.op, Scan):
            return None
        body = value.op.body
        for step in (lambda g: rewrite_bodies(g, rules)[::2], lambda g: rewrite(g, rules, Facts()), fold_constants):
            body, record = step(body)
            fired.update(record.fired)
        return apply(Scan(body, value.op.carried, value.op.scanned, value.op.reverse), *operands)

    is_concerned = any(isinstance(value.op, Scan) for value in graph.values)
    new = rebuilt(graph, rewritten) if is_concerned else graph
    return new, None, _timed(PassRecord("simplify bodies", graph, new, dict(fired)), started)


def _trimmed(op: Scan, used: Iterable[int]) -> tuple[Scan, list[int], list[int]]:
    """``op`` with the ``used`` results, and the positions of the operands and results that are left."""
    inputs, kept, size = op.body.inputs, set(used), 0
    needed: set[Value] = set()
    while len(kept) > size:
        size = len(kept)
        needed = set(topological(op.results[i] for i in kept))
        kept.update(i for i, leaf in enumerate(inputs[: op.carried]) if leaf in needed)
    first, last = op.carried, op.carried + op.scanned
    walked = [i for i in range(first, last) if inputs[i] in needed] or [first]
    captured = [i for i in range(last, len(inputs)) if inputs[i] in needed]
    results = sorted(kept)
    carried = [i for i in results if i < op.carried]
    taken = [*carried, *walked, *captured]
    body = Graph(tuple(inputs[i] for i in taken), {str(i): op.results[i] for i in results})
    return Scan(body, len(carried), len(walked), op.reverse), taken, results


def _timed(record: PassRecord, started: float) -> PassRecord:
    return PassRecord(record.name, record.before, record.after, record.fired, seconds=time.perf_counter() - started)


SPELL = [spell_recurrent]
