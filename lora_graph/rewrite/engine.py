"""The engine: bottom-up sweeps that retry rules at each new Value, until nothing changes."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from lora_graph.ir.graph import Graph, Note
from lora_graph.ir.op import Op
from lora_graph.ir.value import Value, intern, topological
from lora_graph.rewrite.record import PassRecord, Refused
from lora_graph.rewrite.rule import Facts, Refusal, Rule

MAX_SWEEPS = 100
FIRINGS_AT_A_PLACE = 1000
"""How many rules, besides ten for each Value of the graph, may fire on one another's results at one place before they
are taken not to terminate."""

Heads = tuple[type[Op], ...]


def rewrite(
    graph: Graph, rules: Sequence[Rule], facts: Facts | None = None, name: str = "rewrite"
) -> tuple[Graph, PassRecord]:
    """``graph`` after every rule has been tried everywhere, and the record of what happened.

    RuntimeError naming the rules if they do not come to an end. Where nothing fires, the graph itself is returned.
    """
    started = time.perf_counter()
    search = _Search(rules, facts or Facts())
    before, fired, sweeps = graph, Counter[str](), 0
    seen = {graph}
    while search.concerns(graph):
        sweeps += 1
        new, firings = _Sweep(search, graph).run()
        fired += firings
        if not firings or new == graph:
            break
        if new in seen or sweeps == MAX_SWEEPS:
            raise RuntimeError(f"the rules {_listed(firings)} do not come to an end after {sweeps} sweeps")
        seen.add(new)
        graph = new
    seconds = time.perf_counter() - started
    return graph, PassRecord(name, before, graph, dict(fired), search.refusals(graph), max(sweeps, 1), seconds)


def _listed(names: Counter[str]) -> str:
    return ", ".join(repr(name) for name in sorted(names))


class _Search:
    """Where rules match, remembered over the sweeps of one pass."""

    def __init__(self, rules: Sequence[Rule], facts: Facts):
        self.rules = rules
        self.facts = facts
        self.roots = {rule.pattern.head for rule in rules}
        self.candidates: dict[Heads, tuple[Rule, ...]] = {}
        self.inert: set[Value] = set()
        self.refused: dict[tuple[str, Value], Refused] = {}

    def concerns(self, graph: Graph) -> bool:
        """Whether any rule could match in ``graph`` at all."""
        return not self.roots.isdisjoint([type(value.op) for value in graph.values])

    def fire(self, value: Value, users: dict[Value, int]) -> tuple[Rule, Value] | None:
        """The first rule that fires at ``value``, and what it writes."""
        if value in self.inert:
            return None
        heads = (type(value.op), *[type(operand.op) for operand in value.operands])
        candidates = self.candidates.get(heads)
        if candidates is None:
            fitting = (r for r in self.rules if r.pattern.head is heads[0] and r.pattern.fits(heads[1:]))
            candidates = self.candidates[heads] = tuple(fitting)
        final = True
        for rule in candidates:
            for bindings in rule.pattern.match(value, {}):
                outcome = rule.rewrite(self.facts, **bindings)
                if isinstance(outcome, Value):
                    if outcome is value:
                        continue
                    refusal = _changed_type(value, outcome) or self._duplicated(rule, value, bindings, users)
                    if refusal is None:
                        return rule, outcome
                    final, outcome = False, refusal
                if isinstance(outcome, Refusal):
                    self.refused[rule.name, value] = Refused(rule.name, value, outcome.reason)
        if final:
            self.inert.add(value)
        return None

    def _duplicated(
        self, rule: Rule, value: Value, bindings: dict[str, Value], users: dict[Value, int]
    ) -> Refusal | None:
        """A refusal if a Value inside the match would still be computed for others; ahead of time does not count."""
        if rule.free:
            return None
        interior = set(rule.pattern.interior(value, bindings))
        inside = Counter(operand for matched in (value, *interior) for operand in matched.operands)
        for inner in interior:
            others = users.get(inner, 0) - inside[inner]
            if others > 0 and not self.facts.is_foldable(inner):
                return Refusal(f"{inner.op.name} inside is used elsewhere too ({others}×) and would be computed twice")
        return None

    def refusals(self, graph: Graph) -> list[Refused]:
        """What was refused at Values that are there in the end."""
        present = set(graph.values) if self.refused else set()
        return [refused for (_, value), refused in self.refused.items() if value in present]


def _changed_type(old: Value, new: Value) -> Refusal | None:
    if new.result_type == old.result_type:
        return None
    return Refusal(f"would change the type from {old.result_type} to {new.result_type}")


@dataclass
class _Frame:
    """A place where a rule has fired: ``targets`` become what ``written`` settles to, once ``pending`` are settled."""

    targets: tuple[Value, ...]
    written: Value
    fresh: set[Value]
    pending: Iterator[Value]
    note: Note
    rule: str


@dataclass
class _Sweep:
    """One walk over a graph, operands first.

    ``normal`` maps the Values seen to what they have become. ``users`` counts the users these will have, in the part of
    the graph that is rewritten and in the part still to come; a Value that lost them all is ``dead``.
    What a rule returned is ``held`` until its users are counted.
    """

    search: _Search
    graph: Graph
    users: dict[Value, int] = field(default_factory=dict)
    dead: set[Value] = field(default_factory=set)
    held: list[Value] = field(default_factory=list)
    normal: dict[Value, Value] = field(default_factory=dict)
    fired: Counter[str] = field(default_factory=Counter)
    notes: dict[Value, Note] = field(default_factory=dict)

    def run(self) -> tuple[Graph, Counter[str]]:
        graph, normal, users, notes = self.graph, self.normal, self.users, self.graph.notes
        for value, count in graph.users.items():
            new = self._rebuilt(value)
            settled = normal.get(new)
            if settled is None:
                settled = self._settle(new, notes.get(value))
            normal[value] = settled
            users[settled] = users.get(settled, 0) + count
            if settled in self.dead:
                self.dead.remove(settled)
                self._use(settled.operands)
            if self.held:
                self._release(self.held)
                self.held.clear()
            if value in notes:
                self._rename(settled, notes[value])
        if not self.fired:
            return graph, self.fired
        outputs = {name: normal[value] for name, value in graph.outputs.items()}
        return graph.with_outputs(outputs, self.notes), self.fired

    def _rebuilt(self, value: Value) -> Value:
        """``value`` on what its operands have become."""
        operands = value.operands
        if not operands:
            return value
        normal = self.normal
        new = tuple([normal[operand] for operand in operands])
        return value if new == operands else intern(value.op, new)

    def _settle(self, value: Value, note: Note | None) -> Value:
        """What ``value``, whose operands are settled, becomes by the rules at it and at whatever they write."""
        found = self.search.fire(value, self.users)
        if found is None:
            self.normal[value] = value
            return value
        frames = [self._frame((value,), found, note)]
        limit = FIRINGS_AT_A_PLACE + 10 * len(self.graph)
        active = {value}
        while frames:
            frame = frames[-1]
            following = self._next(frame)
            if following is None:
                frames.pop()
                for target in frame.targets:
                    self.normal[target] = self.normal[frame.written]
                    active.discard(target)
                continue
            targets, fire = following
            frames.append(self._frame(targets, fire, frame.note))
            limit -= 1
            if limit < 0 or targets[-1] in active:
                involved = Counter(frame.rule for frame in frames)
                raise RuntimeError(f"the rules {_listed(involved)} do not come to an end at {value!r}")
            active.add(targets[-1])
        return self.normal[value]

    def _frame(self, targets: tuple[Value, ...], found: tuple[Rule, Value], note: Note | None) -> _Frame:
        """New Values remember the module they come from and the rules that made them."""
        rule, written = found
        self.fired[rule.name] += 1
        history = self.notes.get(targets[-1]) or note or Note()
        made = Note(scope=history.scope, rules=(*history.rules, rule.name))
        fresh = topological([written], stop=self.normal.__contains__)
        for value in fresh:
            if value.operands:
                self.notes.setdefault(value, made)
        around = [self.normal[o] for value in fresh for o in value.operands if o in self.normal]
        self._use(around)
        if not fresh:
            self._use([self.normal[written]])
            self.held.append(self.normal[written])
        self._release(targets[-1].operands)
        return _Frame(targets, written, set(fresh), iter(fresh), made, rule.name)

    def _use(self, values: Sequence[Value]) -> None:
        """Count another user of each of ``values``, which may bring it back to life."""
        stack = list(values)
        while stack:
            value = stack.pop()
            self.users[value] = self.users.get(value, 0) + 1
            if value in self.dead:
                self.dead.remove(value)
                stack.extend(value.operands)

    def _release(self, values: Sequence[Value]) -> None:
        """Count one user less of each of ``values``; what has none left uses nothing any more."""
        stack = list(values)
        while stack:
            value = stack.pop()
            self.users[value] -= 1
            if not self.users[value]:
                self.dead.add(value)
                stack.extend(value.operands)

    def _next(self, frame: _Frame) -> tuple[tuple[Value, ...], tuple[Rule, Value]] | None:
        """Settle the pending Values of ``frame`` up to one where a rule fires: that Value, as it was and rebuilt."""
        normal = self.normal
        for fresh in frame.pending:
            if fresh in normal:
                continue
            new = self._rebuilt(fresh)
            self._use([normal[operand] for operand in fresh.operands if operand in frame.fresh])
            settled = normal.get(new)
            if settled is None:
                found = self.search.fire(new, self.users)
                if found is not None:
                    return (fresh, new), found
                settled = normal[new] = new
            normal[fresh] = settled
        return None

    def _rename(self, new: Value, note: Note) -> None:
        """``new`` takes the name and the module of the Value that it stands for, unless it has a name already."""
        mine = self.notes.get(new)
        if mine is None:
            self.notes[new] = note
        elif not mine.name:
            self.notes[new] = replace(note, rules=mine.rules)
