"""Which Value of one graph is which of the other: matches that grow from what is certain, the best supported first.

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

from lora_graph.inspect.diffing.side import Content, Side, is_commutative, is_fixed, is_leaf, kind_of
from lora_graph.ir.leaves import Input, Parameter
from lora_graph.ir.value import Value
from lora_graph.ops.shape import Transpose

BRIDGED, ALIKE, UNLIKE = 0.8, 0.55, 0.1
"""How far an operand agrees with one that stands for its match, and a parameter with one of its type, or of another."""
CHANGED = 0.75
"""What the score is multiplied by where attributes differ, and where types do."""
GOOD, ENOUGH = 0.4, 0.15
"""Scores that are matched before anything is bridged, and that are matched at all."""
REACH = 12
"""How many ops are looked through for one that stands for another."""
CROWD, FEW = 64, 8
"""More pairs of users than that are told apart by what they are rather than tried out, if so few are alike."""

Entry = tuple[float, int, int, int]


class Alignment:
    """``match`` maps Values of ``a`` to those of ``b``; ``back`` is the inverse."""

    def __init__(self, a: Side, b: Side) -> None:
        self.a, self.b = a, b
        self.match: dict[Value, Value] = {}
        self.back: dict[Value, Value] = {}
        self._heap: list[Entry] = []
        self._waiting: list[int] = []

    def run(self, inputs: Iterable[tuple[Value, Value]], outputs: Iterable[tuple[Value, Value]]) -> None:
        """Match all that can be, beginning with ``inputs``; ``outputs`` are pairs that are known by the same name."""
        for p, q in inputs:
            self._record(p, q)
        self._seed()
        for p in list(self.match):
            self._spread(p, self.match[p])
        for p, q in self._same_contents():
            self._consider_users(p, q)
        for p, q in outputs:
            self._consider(p, q)
        self._grow()

    # what is certain

    def _seed(self) -> None:
        """Match what computes the same, where there is but one such on each side; leaves, where they are used alike."""
        by_what = _unique_pairs(self.a, self.b, lambda side, value: side.what[value])
        by_both = _unique_pairs(self.a, self.b, lambda side, value: (side.what[value], side.use[value]))
        for p, q in (*by_what, *by_both):
            is_certain = not isinstance(p.op, Input | Parameter) or self.a.use[p] == self.b.use[q]
            if is_certain and p not in self.match and q not in self.back:
                self._record(p, q)

    def _same_contents(self) -> Iterator[tuple[Value, Value]]:
        """Parameters that only one other has the array of."""
        for p, q in _unique_pairs(self.a, self.b, lambda side, value: side.contents.get(value)):
            content = self.a.contents[p]
            if not isinstance(content, Content) or content.is_telling:
                yield p, q

    def _record(self, p: Value, q: Value) -> None:
        self.match[p] = q
        self.back[q] = p
        heapq.heappush(self._waiting, self.a.order[p])

    # growing

    def _grow(self) -> None:
        while self._heap or self._waiting:
            if self._heap and (self._heap[0][0] <= -GOOD or not self._waiting):
                self._take()
            else:
                p = self.a.graph.values[heapq.heappop(self._waiting)]
                self._bridge(p, self.match[p])

    def _take(self) -> None:
        entry = heapq.heappop(self._heap)
        p, q = self.a.graph.values[entry[2]], self.b.graph.values[entry[3]]
        if p in self.match or q in self.back:
            return
        score = self.score(p, q)
        if score < -entry[0]:  # something that spoke for it has been matched in another way since
            self._push(p, q, score)
            return
        self._record(p, q)
        self._spread(p, q)

    def _push(self, p: Value, q: Value, score: float) -> None:
        if score >= ENOUGH:
            heapq.heappush(self._heap, (-score, -self._hints(p, q), self.a.order[p], self.b.order[q]))

    def _consider(self, p: Value, q: Value) -> None:
        is_open = p not in self.match and q not in self.back
        if is_open and kind_of(p) == kind_of(q) and not is_fixed(p) and not isinstance(p.op, Input):
            self._push(p, q, self.score(p, q))

    def _spread(self, p: Value, q: Value) -> None:
        """Consider the operands of a match, and its users."""
        straight = zip(p.operands, q.operands, strict=False)
        for x, y in product(p.operands, q.operands) if is_commutative(p) and is_commutative(q) else straight:
            self._consider(x, y)
        self._consider_users(p, q)

    def _consider_users(self, p: Value, q: Value) -> None:
        theirs = self._open_users(self.b, q)
        for key, users in self._open_users(self.a, p).items():
            others = theirs.get(key, [])
            if len(users) * len(others) <= CROWD:
                pairs: Iterable[tuple[Value, Value]] = product(users, others)
            else:
                pairs = self._told_apart(users, others)
            for x, y in pairs:
                self._consider(x, y)

    def _open_users(self, side: Side, value: Value) -> dict[tuple[str, int], list[Value]]:
        """The users of ``value`` that are not matched, by kind and by the operand that it is."""
        matched = self.match if side is self.a else self.back
        found: dict[tuple[str, int], list[Value]] = {}
        for user, position in side.users[value]:
            if user not in matched:
                found.setdefault((kind_of(user), position), []).append(user)
        return found

    def _told_apart(self, users: list[Value], others: list[Value]) -> Iterator[tuple[Value, Value]]:
        """Pairs of users of what many ops use: those with equal weights, and of the rest those with an equal use."""
        for key in (_weights, lambda side, value: side.use[value]):
            theirs: dict[object, list[Value]] = {}
            for other in others:
                theirs.setdefault(key(self.b, other), []).append(other)
            for user in users:
                alike = theirs.get(key(self.a, user), [])
                if len(alike) <= FEW:
                    yield from product([user], alike)

    # bridging what only one side has

    def _bridge(self, p: Value, q: Value) -> None:
        """Consider the users of what stands for ``p`` and ``q``, and what their operands stand for."""
        if self._is_left(self.a, p, self.match) and self._is_left(self.b, q, self.back):
            ups = list(self._upward(self.a, p, self.match)), list(self._upward(self.b, q, self.back))
            for x, y in product(*ups):
                if (x, y) != (p, q):
                    self._consider_users(x, y)
        for x, y in zip(p.operands, q.operands, strict=False):
            if x not in self.match and y not in self.back and kind_of(x) != kind_of(y):
                downs = self._downward(self.a, x, self.match), self._downward(self.b, y, self.back)
                for below, other in product(*downs):
                    self._consider(below, other)

    def _is_left(self, side: Side, value: Value, matched: dict[Value, Value]) -> bool:
        return any(user not in matched for user, _ in side.users[value])

    def _upward(self, side: Side, value: Value, matched: dict[Value, Value]) -> Iterator[Value]:
        """``value``, and what stands for it: users of its type that are not matched, and so on; no transpose."""
        reached, kind = [value], side.types[value]
        for current in reached:
            yield current
            for user, _ in side.users[current]:
                is_stand_in = user not in matched and side.types[user] == kind and not isinstance(user.op, Transpose)
                if is_stand_in and user not in reached and len(reached) < REACH:
                    reached.append(user)

    def _downward(self, side: Side, value: Value, matched: dict[Value, Value]) -> list[Value]:
        """``value``, and if it is not matched what it stands for: operands of its type, and so on."""
        reached, kind = [value], side.types[value]
        for current in reached:
            if current not in matched and not isinstance(current.op, Transpose):
                for operand in current.operands:
                    if side.types[operand] == kind and operand not in reached and len(reached) < REACH:
                        reached.append(operand)
        return reached

    # scores

    def score(self, p: Value, q: Value) -> float:
        """How much speaks for a pair, up to 1: operands count twice as much as users."""
        total = (2 * self._operands_agree(p, q) + self._users_agree(p, q)) / 3
        if not is_leaf(p) and self.a.ops[p] != self.b.ops[q]:
            total *= CHANGED
        return total if self.a.types[p] == self.b.types[q] else total * CHANGED

    def _operands_agree(self, p: Value, q: Value) -> float:
        if is_leaf(p):
            return self._agree(p, q)
        straight = [self._agree(x, y) for x, y in zip(p.operands, q.operands, strict=False)]
        if is_commutative(p) and is_commutative(q):
            crossed = [self._agree(x, y) for x, y in zip(p.operands, q.operands[::-1], strict=True)]
            straight = max(straight, crossed, key=sum)
        return sum(straight) / max(len(p.operands), len(q.operands))

    def _agree(self, p: Value, q: Value) -> float:
        partner = self.match.get(p)
        if partner is q or (partner is None and is_fixed(p) and self.a.what[p] == self.b.what[q]):
            return 1.0
        is_matched = q in self.back
        if partner is None and not is_matched and isinstance(p.op, Parameter) and isinstance(q.op, Parameter):
            if self.a.contents[p] == self.b.contents[q]:
                return 1.0
            return ALIKE if self.a.types[p] == self.b.types[q] else UNLIKE
        if (partner is not None and is_matched) or self.a.types[p] != self.b.types[q] or is_fixed(p) or is_fixed(q):
            return 0.0
        below = set(self._downward(self.b, q, self.back))
        return BRIDGED if any(self._is_among(x, below) for x in self._downward(self.a, p, self.match)) else 0.0

    def _is_among(self, p: Value, values: set[Value]) -> bool:
        """Whether the match of ``p`` is one of ``values``, or that of a parameter will be."""
        if p in self.match or not isinstance(p.op, Parameter):
            return self.match.get(p) in values
        content = self.a.contents[p]
        return any(self.b.contents[q] == content for q in values if isinstance(q.op, Parameter) and q not in self.back)

    def _users_agree(self, p: Value, q: Value) -> float:
        theirs = {(self.back[user], position) for user, position in self.b.users[q] if user in self.back}
        agreeing = sum(use in theirs for use in self.a.users[p])
        both_out = min(len(side.outputs.get(value, ())) for side, value in ((self.a, p), (self.b, q)))
        counts = [
            len(side.users[value]) + len(side.outputs.get(value, ())) for side, value in ((self.a, p), (self.b, q))
        ]
        return (agreeing + both_out) / max(*counts, 1)

    def _hints(self, p: Value, q: Value) -> int:
        """What tells pairs of one score apart: what becomes of them, and names."""
        is_named_alike = _names(self.a, p) == _names(self.b, q)
        return 2 * (self.a.use[p] == self.b.use[q]) + is_named_alike


def _unique_pairs(a: Side, b: Side, key: Callable[[Side, Value], object]) -> Iterator[tuple[Value, Value]]:
    """Pairs of Values with a key that no other Value of their side has, users first; None is no key."""
    ours, theirs = _unique(a, key), _unique(b, key)
    for k, p in reversed(ours.items()):
        q = theirs.get(k)
        if p is not None and q is not None:
            yield p, q


def _unique(side: Side, key: Callable[[Side, Value], object]) -> dict[object, Value | None]:
    found: dict[object, Value | None] = {}
    for value in side.graph.values:
        k = key(side, value)
        if k is not None:
            found[k] = None if k in found else value
    return found


def _weights(side: Side, value: Value) -> object:
    """The parameters that ``value`` uses, if there are any."""
    found = tuple(side.contents[operand] for operand in value.operands if operand in side.contents)
    return found or None


def _names(side: Side, value: Value) -> list[str]:
    return [side.name(value), *(side.name(operand) for operand in value.operands if isinstance(operand.op, Parameter))]
