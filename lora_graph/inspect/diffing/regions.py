"""What is left between matches: ops of one graph in the place of others of the other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial

from lora_graph.inspect.diffing.matching import Matching
from lora_graph.inspect.diffing.side import Side, is_leaf
from lora_graph.ir.leaves import Parameter
from lora_graph.ir.value import Value, topological

LONGEST = 8
"""Parts of names that are compared, from the last one on."""

Key = Callable[[Side, Value], object]


@dataclass
class Region:
    """Ops without a match, in the order of their graphs: ``before`` is replaced by ``after``.

    ``results`` are those that the same ops use, or that are the same output.
    """

    before: list[Value] = field(default_factory=list)
    after: list[Value] = field(default_factory=list)
    results: list[tuple[Value, Value]] = field(default_factory=list)


def regions(known: Matching, outputs: Iterable[tuple[Value, Value]]) -> list[Region]:
    """The ops without a match, those together that belong together; only regions with ops on both sides."""
    results = list(dict.fromkeys(_results(known, outputs)))
    groups = _Groups()
    sides = (known.a, known.match), (known.b, known.back)
    left = [[v for v in side.graph.values if v not in matched and not is_leaf(v)] for side, matched in sides]
    for number, values in enumerate(left):
        open_ = set(values)
        for value in values:
            for operand in value.operands:
                if operand in open_:
                    groups.join((number, value), (number, operand))
    for p, q in results:
        groups.join((0, p), (1, q))
    found: dict[object, Region] = {}
    for number, values in enumerate(left):
        for value in values:
            region = found.setdefault(groups.root((number, value)), Region())
            (region.after if number else region.before).append(value)
    for p, q in results:
        found[groups.root((0, p))].results.append((p, q))
    return [region for region in found.values() if region.results]


def _results(known: Matching, outputs: Iterable[tuple[Value, Value]]) -> Iterator[tuple[Value, Value]]:
    """Pairs of ops without a match that are the same operand of a match, or the same output."""

    def is_open(p: Value, q: Value) -> bool:
        return not (p in known.match or q in known.back or is_leaf(p) or is_leaf(q))

    yield from ((p, q) for p, q in outputs if is_open(p, q))
    for user, other in known.match.items():
        yield from ((p, q) for p, q in matched_operands(known, user, other) if is_open(p, q))


def matched_operands(known: Matching, user: Value, other: Value) -> list[tuple[Value, Value]]:
    """The operands of a match in pairs; those of a commutative op as they are matched, if they are."""
    theirs = other.operands
    if user.op.commutative and len(user.operands) == len(theirs) == 2:
        agree = [known.match.get(p) is q for p, q in zip(user.operands, theirs, strict=True)]
        crossed = [known.match.get(p) is q for p, q in zip(user.operands, theirs[::-1], strict=True)]
        theirs = theirs[::-1] if sum(crossed) > sum(agree) else theirs
    return list(zip(user.operands, theirs, strict=False))


class _Groups:
    """Disjoint sets (union by path halving)."""

    def __init__(self) -> None:
        self._parent: dict[object, object] = {}

    def root(self, item: object) -> object:
        parent = self._parent
        while parent.get(item, item) != item:
            parent[item] = parent.get(parent[item], parent[item])
            item = parent[item]
        return item

    def join(self, first: object, second: object) -> None:
        self._parent[self.root(first)] = self.root(second)


def pair_parameters(known: Matching, region: Region) -> None:
    """Match the parameters of a region: those of one array; of one type, up to a transpose, and name or end of it;

    of one name; and of a type that no others have.
    """
    keys: list[Key] = [lambda side, leaf: side.contents[leaf]]
    keys += [partial(_end_of_name, length) for length in range(LONGEST, 0, -1)]
    keys += [lambda side, leaf: side.name(leaf), lambda side, leaf: side.types[leaf]]
    for key in keys:
        ours = _by_key(key, known.a, region.before, known.match)
        theirs = _by_key(key, known.b, region.after, known.back)
        for k, (p, *more) in ours.items():
            others = theirs.get(k, [])
            if not more and len(others) == 1 and known.may_be(p, others[0]):
                known.record(p, others[0])


def _end_of_name(length: int, side: Side, leaf: Value) -> object:
    """The last parts of the name of ``leaf`` with its type, up to a transpose; None if it has no so many."""
    (parts,) = side.name_parts[leaf]
    shape = side.shape(leaf)
    sizes = frozenset(shape) if len(shape) == 2 else shape
    return (leaf.dtype, sizes, parts[-length:]) if len(parts) >= length else None


def _by_key(key: Key, side: Side, users: Iterable[Value], matched: dict[Value, Value]) -> dict[object, list[Value]]:
    """The parameters of ``users`` that are not matched, by their key."""
    found: dict[object, list[Value]] = {}
    for leaf in dict.fromkeys(operand for user in users for operand in user.operands):
        if isinstance(leaf.op, Parameter) and leaf not in matched:
            k = key(side, leaf)
            if k is not None:
                found.setdefault(k, []).append(leaf)
    return found


def part(known: Matching, results: list[tuple[Value, Value]]) -> Region:
    """The ops without a match that ``results`` depend on without a match between."""
    before = _cone([p for p, _ in results], known.match)
    return Region(before, _cone([q for _, q in results], known.back), results)


def _cone(results: list[Value], matched: dict[Value, Value]) -> list[Value]:
    return [value for value in topological(results, stop=matched.__contains__) if not is_leaf(value)]
