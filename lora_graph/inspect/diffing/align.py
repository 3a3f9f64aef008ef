"""Matches that grow from what is certain, the best supported first.

What is computed in the same way from the same inputs and weights is the same to begin with. From there on each match
speaks for those of its operands and users that are alike, and of all pairs that something speaks for, the one of the
highest score is matched next: seed and extend, as in aligning trees (Falleri et al., *Fine-grained and accurate source
code differencing*, 2014) and networks (Kazemi et al., *Growing a graph matching from a handful of seeds*, 2015). An op
of one graph that the other lacks is bridged: it stands for an operand of its own type.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator
from itertools import product

from lora_graph.inspect.diffing.matching import Matching
from lora_graph.inspect.diffing.score import hints, score
from lora_graph.inspect.diffing.side import Content, Side, is_commutative, is_fixed
from lora_graph.ir.leaves import Input, Parameter
from lora_graph.ir.value import Value

GOOD, ENOUGH = 0.4, 0.3
"""Scores that are matched before anything is bridged, and that are matched at all."""
CROWD, FEW = 64, 8
"""More pairs of users than that are told apart by what they are rather than tried out, if so few are alike."""

Pair = tuple[Value, Value]
Key = Callable[[Side, Value], object]


def align(a: Side, b: Side, inputs: Iterable[Pair], outputs: Iterable[Pair]) -> Matching:
    """All matches there are, beginning with ``inputs``; ``outputs`` are pairs that are outputs under one name."""
    known = Matching(a, b)
    for p, q in inputs:
        known.record(p, q)
    for p, q in _certain(a, b):
        if p not in known.match and q not in known.back:
            known.record(p, q)
    _Growth(known, outputs).run()
    return known


def _certain(a: Side, b: Side) -> Iterator[Pair]:
    """What computes the same, where there is but one such on each side; leaves, where they are used alike."""
    yield from (pair for pair in _unique_pairs(a, b, _what) if not isinstance(pair[0].op, Input | Parameter))
    yield from _unique_pairs(a, b, lambda side, value: (side.what[value], side.use[value]))


def _what(side: Side, value: Value) -> object:
    return side.what[value]


def _same_contents(a: Side, b: Side) -> Iterator[Pair]:
    """Parameters that only one other has the array of."""
    for p, q in _unique_pairs(a, b, lambda side, value: side.contents.get(value)):
        content = a.contents[p]
        if not isinstance(content, Content) or content.is_telling:
            yield p, q


def _unique_pairs(a: Side, b: Side, key: Key) -> Iterator[Pair]:
    """Pairs of Values with a key that no other Value of their side has, users first; None is no key."""
    ours, theirs = _unique(a, key), _unique(b, key)
    for k, p in reversed(ours.items()):
        q = theirs.get(k)
        if p is not None and q is not None:
            yield p, q


def _unique(side: Side, key: Key) -> dict[object, Value | None]:
    found: dict[object, Value | None] = {}
    for value in side.graph.values:
        k = key(side, value)
        if k is not None:
            found[k] = None if k in found else value
    return found


class _Growth:
    """The pairs that something speaks for, best first, and the matches around which there is more to look for."""

    def __init__(self, known: Matching, outputs: Iterable[Pair]) -> None:
        self._known, self._a, self._b = known, known.a, known.b
        self._heap: list[tuple[float, int, int, int]] = []
        self._to_bridge = sorted(self._a.order[p] for p in known.match)
        self._to_leap: list[int] = []
        for p, q in known.match.items():
            self._spread(p, q)
        for p, q in _same_contents(self._a, self._b):
            self._consider_users(p, q)
        for p, q in outputs:
            self._consider(p, q)

    def run(self) -> None:
        """Match good pairs; where there are none, bridge what only one side has; and what is left of pairs; or leap."""
        while self._heap or self._to_bridge or self._to_leap:
            if self._heap and (self._heap[0][0] <= -GOOD or not self._to_bridge):
                self._take()
            elif self._to_bridge:
                number = heapq.heappop(self._to_bridge)
                heapq.heappush(self._to_leap, number)
                self._bridge(*self._match(number))
            else:
                self._leap(*self._match(heapq.heappop(self._to_leap)))

    def _match(self, number: int) -> Pair:
        p = self._a.graph.values[number]
        return p, self._known.match[p]

    def _take(self) -> None:
        entry = heapq.heappop(self._heap)
        p, q = self._a.graph.values[entry[2]], self._b.graph.values[entry[3]]
        if not self._known.are_open(p, q):
            return
        now = score(self._known, p, q)
        if now < -entry[0]:  # something that spoke for it has been matched in another way since
            self._push(p, q, now)
        else:
            self._accept(p, q)

    def _accept(self, p: Value, q: Value) -> None:
        self._known.record(p, q)
        heapq.heappush(self._to_bridge, self._a.order[p])
        self._spread(p, q)

    def _push(self, p: Value, q: Value, now: float) -> None:
        if now >= ENOUGH:
            entry = -now, -hints(self._known, p, q), self._a.order[p], self._b.order[q]
            heapq.heappush(self._heap, entry)

    def _consider(self, p: Value, q: Value) -> None:
        is_possible = self._a.kinds[p] == self._b.kinds[q] and not is_fixed(p) and not isinstance(p.op, Input)
        if is_possible and isinstance(p.op, Parameter):
            is_possible = self._known.may_be(p, q)
        if is_possible and self._known.are_open(p, q):
            self._push(p, q, score(self._known, p, q))

    # around a match

    def _spread(self, p: Value, q: Value) -> None:
        """Consider the operands of a match, and its users."""
        straight = zip(p.operands, q.operands, strict=False)
        for x, y in product(p.operands, q.operands) if is_commutative(p) and is_commutative(q) else straight:
            self._consider(x, y)
        self._consider_users(p, q)

    def _consider_users(self, p: Value, q: Value) -> None:
        theirs = self._known.open_users(self._b, q)
        for key, users in self._known.open_users(self._a, p).items():
            others = theirs.get(key, [])
            is_crowd = len(users) * len(others) > CROWD
            for x, y in self._told_apart(users, others) if is_crowd else product(users, others):
                self._consider(x, y)

    def _told_apart(self, users: list[Value], others: list[Value]) -> Iterator[Pair]:
        """Pairs of users of what many ops use: those with equal weights, and those with an equal use."""
        for key in (_weights, lambda side, value: side.use[value]):
            theirs: dict[object, list[Value]] = {}
            for other in others:
                theirs.setdefault(key(self._b, other), []).append(other)
            for user in users:
                alike = theirs.get(key(self._a, user), [])
                if len(alike) <= FEW:
                    yield from product([user], alike)

    def _bridge(self, p: Value, q: Value) -> None:
        """Consider the users of what stands for ``p`` and ``q``, and what their operands stand for."""
        known, a, b = self._known, self._a, self._b
        if known.is_left(a, p) and known.is_left(b, q):
            for x, y in product(known.upward(a, p), known.upward(b, q)):
                if (x, y) != (p, q):
                    self._consider_users(x, y)
        for x, y in zip(p.operands, q.operands, strict=False):
            if known.are_open(x, y) and a.kinds[x] != b.kinds[y]:
                for below, other in product(known.downward(a, x), known.downward(b, y)):
                    self._consider(below, other)

    def _leap(self, p: Value, q: Value) -> None:
        """Match the nearest ops after ``p`` and ``q`` of one kind and of the same types that have no equals nearby."""
        known, a, b = self._known, self._a, self._b
        if known.is_left(a, p) and known.is_left(b, q):
            theirs = dict(known.ahead(b, q))
            found = next(((x, theirs[key]) for key, x in known.ahead(a, p) if key in theirs), None)
            if found is not None:
                self._accept(*found)
                heapq.heappush(self._to_leap, a.order[p])


def _weights(side: Side, value: Value) -> object:
    """The arrays of the parameters that ``value`` uses."""
    return tuple(side.contents[operand] for operand in value.operands if operand in side.contents)
