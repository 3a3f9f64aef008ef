"""The reverse sweep: cotangents carried from results to what they were computed from, by each op's own pullback."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from lora_graph.ir.leaves import Project
from lora_graph.ir.types import TupleType
from lora_graph.ir.value import Value, topological
from lora_graph.ops.fused import Fused, results_of


def pull(cotangents: Mapping[Value, Value], wrt: Sequence[Value]) -> dict[Value, Value]:
    """The cotangents of those of ``wrt`` that are reached, given the cotangents of some outputs."""
    return _sweep(topological(cotangents), cotangents, wrt)


def summed(cotangents: Iterable[tuple[Value, Value | None]]) -> dict[Value, Value]:
    """The cotangent of each Value, where one Value may be several results; None adds nothing."""
    total: dict[Value, Value] = {}
    for value, cotangent in cotangents:
        if cotangent is not None:
            total[value] = total[value] + cotangent if value in total else cotangent
    return total


def _sweep(order: Sequence[Value], cotangents: Mapping[Value, Value], wrt: Sequence[Value]) -> dict[Value, Value]:
    """The cotangents of ``wrt``, carried backwards through the Values of ``order`` alone."""
    active = set(wrt)
    passing: set[Value] = set()
    for value in order:
        if any(operand in active for operand in value.operands):
            active.add(value)
            passing.add(value)
    total = dict(cotangents)
    parts: dict[Value, list[Value | None]] = {}
    for value in reversed(order):
        if value not in passing or (value not in total and value not in parts):
            continue
        if isinstance(value.op, Project):
            _collect(parts, value, total[value])
            continue
        given = tuple(parts[value]) if value in parts else total[value]
        for operand, part in zip(value.operands, _pullback(value, given), strict=True):
            if part is not None and operand in active:
                total[operand] = total[operand] + part if operand in total else part
    return {w: total[w] for w in wrt if w in total}


def _pullback(value: Value, cotangent: Value | tuple[Value | None, ...]) -> Sequence[Value | None]:
    op = value.op
    if isinstance(op, Fused) and not op.has_pullback:
        given = cotangent if isinstance(cotangent, tuple) else (cotangent,)
        seeds = summed(zip(results_of(op.decompose(*value.operands)), given, strict=True))
        inside = topological(seeds, stop=set(value.operands).__contains__)
        found = _sweep(inside, seeds, value.operands)
        # an operand that is used twice has one cotangent, which counts once
        return [found.pop(operand, None) for operand in value.operands]
    return op.pullback(cotangent, value, *value.operands)  # type: ignore[arg-type]


def _collect(parts: dict[Value, list[Value | None]], value: Value, cotangent: Value) -> None:
    """The cotangent of one result of an op with several waits until all of them are known."""
    (several,) = value.operands
    assert isinstance(several.result_type, TupleType)
    assert isinstance(value.op, Project)
    slots = parts.setdefault(several, [None] * len(several.result_type.items))
    slots[value.op.index] = cotangent
