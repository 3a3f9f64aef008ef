"""Which input is which, which output, and what the named dimensions of one graph are called in the other."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator

from lora_graph.inspect.diffing.side import Side, tensor_type
from lora_graph.ir import dims
from lora_graph.ir.dims import Dim
from lora_graph.ir.leaves import Dimension, Input, Parameter
from lora_graph.ir.value import Value

Pairs = dict[str, str]


def match_inputs(a: Side, b: Side) -> list[tuple[Value, Value]]:
    """Inputs of one name; of the others those that become the same, and then those of one type, in order."""
    left, right = ({a.name(v): v for v in side.graph.inputs} for side in (a, b))
    names = _same(left, right)
    names |= _paired(left, right, names, lambda side, leaf: (side.use[leaf], leaf.dtype.str, leaf.rank), a, b)
    names |= _paired(left, right, names, lambda side, leaf: (leaf.dtype.str, leaf.rank), a, b)
    return [(left[name], right[other]) for name, other in names.items()]


def match_outputs(a: Side, b: Side) -> Pairs:
    """Outputs of one name; of the others those that compute the same, and then in order. A name each."""
    left, right = dict(a.graph.outputs), dict(b.graph.outputs)
    names = _same(left, right)
    names |= _paired(left, right, names, lambda side, value: side.what[value], a, b)
    return names | _paired(left, right, names, lambda side, value: 0, a, b)


def _same(left: Iterable[str], right: Iterable[str]) -> Pairs:
    there = set(right)
    return {name: name for name in left if name in there}


def _paired(
    left: dict[str, Value],
    right: dict[str, Value],
    done: Pairs,
    key: Callable[[Side, Value], Hashable],
    a: Side,
    b: Side,
) -> Pairs:
    """What is not ``done``, paired in order where the keys are equal."""
    taken = set(done.values())
    waiting: dict[Hashable, list[str]] = {}
    for name, value in right.items():
        if name not in taken:
            waiting.setdefault(key(b, value), []).append(name)
    found: Pairs = {}
    for name, value in left.items():
        others = waiting.get(key(a, value)) if name not in done else None
        if others:
            found[name] = others.pop(0)
    return found


def match_sizes(a: Side, b: Side, inputs: Iterable[tuple[Value, Value]]) -> dict[str, str]:
    """Give both sides common names of dimensions (their ``sizes``), and return those that differ, as old and new.

    A name of one that stands where the other has a number is that number in both.
    """
    left: dict[str, Dim] = {}
    right: dict[str, Dim] = {}
    renamed: dict[str, str] = {}
    for p, q in inputs:
        if p.rank != q.rank:
            continue
        for old, new in zip(p.shape, q.shape, strict=True):
            before, after = dims.plain_name(old), dims.plain_name(new)
            if before is not None and after is not None and before not in left and after not in right:
                left[before] = right[after] = old
                if before != after:
                    renamed[before] = after
            elif before is not None and before not in left and isinstance(new, int):
                left[before] = new
            elif after is not None and after not in right and isinstance(old, int):
                right[after] = old
    taken = {name for size in left.values() for name in dims.names(size)}
    for name in dict.fromkeys(_all_names(b)):
        if name not in right and name in taken:
            right[name] = dims.dim(repr(f"{name} of the other"))
    a.sizes = {name: size for name, size in left.items() if dims.plain_name(size) != name}
    b.sizes = {name: size for name, size in right.items() if dims.plain_name(size) != name}
    return renamed


def _all_names(side: Side) -> Iterator[str]:
    for value in side.graph.values:
        if isinstance(value.op, Input | Parameter):
            yield from (name for size in tensor_type(value.result_type).shape for name in dims.names(size))
        elif isinstance(value.op, Dimension):
            yield from dims.names(value.op.size)
