"""What differs between two matched ops: attributes, types of inputs, constants, operands that come from elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from lora_graph.inspect.diffing.matching import Matching
from lora_graph.inspect.diffing.regions import matched_operands
from lora_graph.inspect.diffing.side import Side, is_fixed, is_leaf, kind_of
from lora_graph.ir.graph import Graph
from lora_graph.ir.leaves import Constant, Dimension, Input
from lora_graph.ir.value import Value

What = Mapping[str, tuple[str, str]]


@dataclass(frozen=True)
class Change:
    """``before`` became ``after``; ``what`` names what differs, each with the old and the new text."""

    before: Value
    after: Value
    what: What


def changes(known: Matching, outputs: Iterable[tuple[str, str]], names: Names) -> Iterator[Change]:
    """The matches whose ops differ, in the order of the first graph, and outputs that have another Value."""
    for p in known.a.graph.values:
        if p in known.match:
            what = dict(_differences(known, p, known.match[p], names))
            if what:
                yield Change(p, known.match[p], what)
    for name, other in outputs:
        p, q = known.a.graph.outputs[name], known.b.graph.outputs[other]
        if is_rewired(known, p, q):
            yield Change(p, q, {f"output {name}": (names.left(p), names.right(q))})


@dataclass(frozen=True)
class Names:
    """What the Values of each side are called in print."""

    a: Mapping[Value, str]
    b: Mapping[Value, str]

    def left(self, value: Value) -> str:
        return _text(value, self.a)

    def right(self, value: Value) -> str:
        return _text(value, self.b)


def _text(value: Value, names: Mapping[Value, str]) -> str:
    match value.op:
        case Constant(value=array):
            return str(array.tolist()) if array.size <= 4 else f"{array.dtype.name}{list(array.shape)}"
        case Dimension(size=size):
            return str(size)
    return names[value]


def _differences(known: Matching, p: Value, q: Value, names: Names) -> Iterator[tuple[str, tuple[str, str]]]:
    a, b = known.a, known.b
    if isinstance(p.op, Input):
        is_fixed_in_one = any(isinstance(d, int) != isinstance(e, int) for d, e in zip(p.shape, q.shape, strict=False))
        if a.types[p] != b.types[q] or is_fixed_in_one:
            yield "type", (str(p.type), str(q.type))
        return
    if is_leaf(p):
        return
    if a.ops[p] != b.ops[q]:
        yield from op_differences(a, b, p, q)
    if len(p.operands) != len(q.operands):
        yield "operands", (str(len(p.operands)), str(len(q.operands)))
    for number, (x, y) in enumerate(matched_operands(known, p, q)):
        if is_rewired(known, x, y):
            yield f"operand {number}", (names.left(x), names.right(y))


def op_differences(a: Side, b: Side, p: Value, q: Value) -> Iterator[tuple[str, tuple[str, str]]]:
    """The attributes in which two ops differ; the op itself where it is another one."""
    if kind_of(p) != kind_of(q):
        yield "op", (kind_of(p), kind_of(q))
        return
    keys = zip(a.ops[p].key[1:], b.ops[q].key[1:], strict=True)
    before, after = p.op.attributes(), q.op.attributes()
    for name, (ours, theirs) in zip(before, keys, strict=True):
        if ours != theirs:
            yield name, (_short(before[name]), _short(after[name]))


def _short(attribute: object) -> str:
    match attribute:
        case Graph():
            return f"a graph of {len(attribute)} values"
        case bytes():
            return f"{len(attribute)} bytes"
        case np.dtype():
            return str(attribute.name)
        case tuple():
            return f"({', '.join(map(_short, attribute))})"
    text = str(attribute)
    return text if len(text) <= 80 else f"{text[:77]}..."


def is_rewired(known: Matching, p: Value, q: Value) -> bool:
    """Whether ``q`` is not what ``p`` became, where that is not told already by what was added and removed."""
    if is_fixed(p) and is_fixed(q):
        return known.a.what[p] != known.b.what[q]
    if known.match.get(p) is q:
        return False
    is_told = (p not in known.match and not is_fixed(p)) or (q not in known.back and not is_fixed(q))
    return not is_told
