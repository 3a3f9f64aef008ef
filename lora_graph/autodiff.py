"""Reverse-mode differentiation as a transformation of graphs: the gradient of an expression is an expression.

What comes out can be optimized, exported and differentiated again. Only the Values on a path from ``wrt`` to the
output are visited, so nothing is built for frozen or unreached parameters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lora_graph.ir.leaves import Project, constant
from lora_graph.ir.types import TupleType
from lora_graph.ir.value import Value, topological
from lora_graph.ops.fused import Fused
from lora_graph.ops.shape import zeros_like


def gradients(output: Value, wrt: Sequence[Value], cotangent: Value | None = None) -> list[Value]:
    """∂output/∂w, contracted with ``cotangent``, for each w of ``wrt``; zeros where ``output`` does not depend on w.

    Without ``cotangent``, ``output`` must be a scalar and the result is its gradient.
    """
    if not output.type.is_float:
        raise TypeError(f"only floats have a gradient, got {output.type}")
    if cotangent is None:
        if output.shape:
            raise ValueError(f"the gradient of {output.type} needs a cotangent: only a scalar has a gradient by itself")
        cotangent = constant(1, output.dtype)
    elif cotangent.type != output.type:
        raise ValueError(f"the cotangent of {output.type} cannot be {cotangent.type}")
    found = pull({output: cotangent}, wrt)
    return [found[w] if w in found else zeros_like(w) for w in wrt]


def pull(cotangents: Mapping[Value, Value], wrt: Sequence[Value]) -> dict[Value, Value]:
    """The cotangents of those of ``wrt`` that are reached, given the cotangents of some outputs."""
    return _sweep(topological(cotangents), cotangents, wrt)


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
    if isinstance(op, Fused) and not op.has_pullback and isinstance(cotangent, Value):
        spelled = op.decompose(*value.operands)
        inside = topological([spelled], stop=set(value.operands).__contains__)
        found = _sweep(inside, {spelled: cotangent}, value.operands)
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
