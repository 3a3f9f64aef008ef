"""What is left between matches: ops in the place of others, and whether they compute the same."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from lora_graph.inspect.diffing.align import Alignment
from lora_graph.inspect.diffing.side import Numbers, Side, is_leaf, tensor_type
from lora_graph.ir.graph import Graph, replace
from lora_graph.ir.leaves import Input, Parameter
from lora_graph.ir.types import TensorType
from lora_graph.ir.value import Value, apply, topological
from lora_graph.ops.fused import Fused
from lora_graph.rewrite.algebra import IDENTITIES
from lora_graph.rewrite.blocks import BLOCKS
from lora_graph.rewrite.engine import rewrite
from lora_graph.rewrite.fold import fold_constants
from lora_graph.rewrite.layout import LAYOUT
from lora_graph.rewrite.rebuild import rebuilt

LARGEST = 512
"""Ops of a region that are still looked at for computing the same as others."""


@dataclass
class Region:
    """Ops without a match, in the order of their graphs: ``before`` is replaced by ``after``.

    ``results`` are those that the same ops use, or that are the same output.
    """

    before: list[Value] = field(default_factory=list)
    after: list[Value] = field(default_factory=list)
    results: list[tuple[Value, Value]] = field(default_factory=list)


def regions(alignment: Alignment, outputs: Iterable[tuple[Value, Value]]) -> list[Region]:
    """The ops without a match, those together that belong together; only regions with ops on both sides."""
    results = list(dict.fromkeys(_results(alignment, outputs)))
    groups = _Groups()
    sides = (alignment.a, alignment.match), (alignment.b, alignment.back)
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


def _results(alignment: Alignment, outputs: Iterable[tuple[Value, Value]]) -> Iterator[tuple[Value, Value]]:
    """Pairs of ops without a match that are the same operand of a match, or the same output."""

    def is_open(p: Value, q: Value) -> bool:
        return not (p in alignment.match or q in alignment.back or is_leaf(p) or is_leaf(q))

    yield from ((p, q) for p, q in outputs if is_open(p, q))
    for user, other in alignment.match.items():
        yield from ((p, q) for p, q in matched_operands(alignment, user, other) if is_open(p, q))


def matched_operands(alignment: Alignment, user: Value, other: Value) -> list[tuple[Value, Value]]:
    """The operands of a match in pairs; those of a commutative op as they are matched, if they are."""
    theirs = other.operands
    if user.op.commutative and len(user.operands) == len(theirs) == 2:
        agree = [alignment.match.get(p) is q for p, q in zip(user.operands, theirs, strict=True)]
        crossed = [alignment.match.get(p) is q for p, q in zip(user.operands, theirs[::-1], strict=True)]
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


def pair_parameters(alignment: Alignment, region: Region) -> None:
    """Match the parameters of a region that have the same array, else the same name, else the same type."""
    a, b = alignment.a, alignment.b
    for key in (lambda s, v: s.contents[v], lambda s, v: s.name(v), lambda s, v: s.types[v]):
        sides = (a, region.before, alignment.match), (b, region.after, alignment.back)
        ours, theirs = (_parameters_by(key, *side) for side in sides)
        for k, values in ours.items():
            if len(values) == 1 == len(theirs.get(k, ())):
                alignment.match[values[0]], alignment.back[theirs[k][0]] = theirs[k][0], values[0]


def _parameters_by(
    key: Callable[[Side, Value], object], side: Side, values: Iterable[Value], matched: dict[Value, Value]
) -> dict[object, list[Value]]:
    found: dict[object, list[Value]] = {}
    leaves = dict.fromkeys(p for value in values for p in value.operands if isinstance(p.op, Parameter))
    for leaf in leaves:
        if leaf not in matched:
            found.setdefault(key(side, leaf), []).append(leaf)
    return found


def computes_the_same(alignment: Alignment, region: Region) -> bool:
    """Whether the results of a region are the same functions of what it uses: once fused ops are spelled out,
    identities of arithmetic applied, and operands of commutative ops taken in any order."""
    if len(region.before) + len(region.after) > LARGEST:
        return False
    a, b = alignment.a, alignment.b
    leaves: dict[Value, Value] = {}
    for value in dict.fromkeys(operand for user in region.before for operand in user.operands):
        if value in alignment.match and isinstance(a.types[value], TensorType):
            leaves[value] = apply(Input(str(a.order[value]), tensor_type(a.types[value])))
    others = {alignment.match[value]: leaf for value, leaf in leaves.items()}
    if any(b.types[value] != leaf.type for value, leaf in others.items()):
        return False
    numbers = Numbers()
    found = [
        _forms(side, [pair[number] for pair in region.results], mapping, numbers)
        for number, (side, mapping) in enumerate(((a, leaves), (b, others)))
    ]
    return found[0] == found[1] is not None


def _forms(side: Side, results: list[Value], mapping: dict[Value, Value], numbers: Numbers) -> list[int] | None:
    """Fingerprints of ``results`` in the simplest form; None where they use what is not in ``mapping``."""
    values = replace(results, mapping, side.sizes)
    ports: dict[Value, object] = {leaf: leaf for leaf in mapping.values()}
    if any(isinstance(v.op, Input | Parameter) and v not in ports for v in topological(values)):
        return None
    graph = Graph(tuple(mapping.values()), {str(number): value for number, value in enumerate(values)})
    while True:
        graph, _ = fold_constants(rewrite(graph, [*IDENTITIES, *LAYOUT, *BLOCKS])[0])
        spelled = rebuilt(graph, _spelled)
        if spelled == graph:
            simple = Side(graph, {}, numbers, ports=ports)
            return [simple.what[value] for value in graph.outputs.values()]
        graph = spelled


def _spelled(value: Value, operands: tuple[Value, ...]) -> Value | None:
    """What a fused op with a single result is a name for."""
    if isinstance(value.op, Fused) and isinstance(value.result_type, TensorType):
        spelled: Value = value.op.decompose(*operands)
        return spelled
    return None
