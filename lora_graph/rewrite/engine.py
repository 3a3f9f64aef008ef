"""The engine: bottom-up sweeps that retry rules at each new Value, until nothing changes."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from lora_graph.ir.graph import Graph, Note
from lora_graph.ir.op import Op
from lora_graph.ir.value import Value, intern, topological
from lora_graph.rewrite.record import PassRecord, Refused
from lora_graph.rewrite.rule import Facts, Refusal, Rule

MAX_SWEEPS = 12
MAX_DEPTH = 200
"""How many rules may fire on one another's results at one place before they are taken not to terminate."""


def rewrite(
    graph: Graph, rules: Sequence[Rule], facts: Facts | None = None, name: str = "rewrite"
) -> tuple[Graph, PassRecord]:
    """``graph`` after every rule has been tried everywhere, and the record of what happened."""
    started = time.perf_counter()
    index: dict[type[Op], list[Rule]] = defaultdict(list)
    for rule in rules:
        index[rule.pattern.op].append(rule)
    before, fired, sweeps = graph, Counter[str](), 0
    refused: dict[tuple[str, Value], Refused] = {}
    for sweeps in range(1, MAX_SWEEPS + 1):  # noqa: B007
        sweep = _Sweep(index, facts or Facts(), graph.users)
        new = sweep.run(graph)
        fired += sweep.fired
        refused = sweep.refused
        unchanged, graph = new == graph, new
        if unchanged:
            break
    seconds = time.perf_counter() - started
    return graph, PassRecord(name, before, graph, dict(fired), list(refused.values()), sweeps, seconds)


@dataclass
class _Sweep:
    index: dict[type[Op], list[Rule]]
    facts: Facts
    old_users: dict[Value, int]
    users: Counter[Value] = field(default_factory=Counter)
    normal: dict[Value, Value] = field(default_factory=dict)
    fired: Counter[str] = field(default_factory=Counter)
    refused: dict[tuple[str, Value], Refused] = field(default_factory=dict)
    notes: dict[Value, Note] = field(default_factory=dict)

    def run(self, graph: Graph) -> Graph:
        for value in graph.values:
            note = graph.notes.get(value)
            new = self._settle(value, note, 0)
            self.users[new] += self.old_users[value]
            if note is not None:
                mine = self.notes.get(new)
                rules = mine.rules if mine else note.rules
                self.notes[new] = replace(note, rules=rules) if not mine or not mine.name else mine
        outputs = {name: self.normal[value] for name, value in graph.outputs.items()}
        return Graph(graph.inputs, outputs, self.notes, graph.name)

    def _settle(self, value: Value, note: Note | None, depth: int) -> Value:
        """``value``, whose operands are settled, with rules applied at it and at whatever they write."""
        new = value
        if value.operands:
            operands = tuple([self.normal[operand] for operand in value.operands])
            new = value if operands == value.operands else intern(value.op, operands)
        if new is value or new not in self.normal:
            written = self._fire(new, note)
            self.normal[new] = new if written is None else self._settle_all(written, note, depth + 1)
        self.normal[value] = self.normal[new]
        return self.normal[new]

    def _settle_all(self, written: Value, note: Note | None, depth: int) -> Value:
        if depth > MAX_DEPTH:
            raise RuntimeError(f"the rules do not come to an end at {written!r}: {dict(self.fired)}")
        for fresh in topological([written], stop=self.normal.__contains__):
            for operand in fresh.operands:
                self.users[self.normal.get(operand, operand)] += 1
            self._settle(fresh, note, depth)
        return self.normal[written]

    def _fire(self, value: Value, note: Note | None) -> Value | None:
        for rule in self.index.get(type(value.op), ()):
            for bindings in rule.pattern.match(value, {}):
                outcome = self._try(rule, value, bindings)
                if isinstance(outcome, Value):
                    self.fired[rule.name] += 1
                    self._trace(rule, value, outcome, note)
                    return outcome
                if isinstance(outcome, Refusal):
                    self.refused[rule.name, value] = Refused(rule.name, value, outcome.reason)
        return None

    def _try(self, rule: Rule, value: Value, bindings: dict[str, Value]) -> Value | Refusal | None:
        outcome = rule.rewrite(self.facts, **bindings)
        if not isinstance(outcome, Value):
            return outcome
        if outcome is value:
            return None
        if outcome.result_type != value.result_type:
            return Refusal(f"would change the type from {value.result_type} to {outcome.result_type}")
        return outcome if rule.free else self._unless_duplicated(rule, value, bindings, outcome)

    def _unless_duplicated(
        self, rule: Rule, value: Value, bindings: dict[str, Value], outcome: Value
    ) -> Value | Refusal:
        interior = set(rule.pattern.interior(value, bindings))
        inside = Counter(operand for matched in (value, *interior) for operand in matched.operands)
        for inner in interior:
            others = self.users[inner] - inside[inner]
            if others > 0 and not self.facts.is_static(inner):
                return Refusal(f"{inner.op.name} inside is used elsewhere too ({others}×) and would be computed twice")
        return outcome

    def _trace(self, rule: Rule, old: Value, new: Value, note: Note | None) -> None:
        """New Values remember the module they come from and the rules that made them."""
        history = self.notes.get(old) or note or Note()
        made = Note(scope=history.scope, rules=(*history.rules, rule.name))
        for fresh in topological([new], stop=self.normal.__contains__):
            if fresh.operands and fresh not in self.notes:
                self.notes[fresh] = made
