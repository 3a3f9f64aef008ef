"""What a graph comes to where some of its leaves are zero or empty."""

from __future__ import annotations

from collections.abc import Collection

from lora_graph.ir.graph import Graph
from lora_graph.ir.value import Value
from lora_graph.ops.arithmetic import Add, Mul, Sub
from lora_graph.ops.convolution import Conv
from lora_graph.ops.gather import Gather
from lora_graph.ops.linalg import MatMul
from lora_graph.rewrite.rebuild import rebuilt

PRODUCTS = (Mul, MatMul, Conv)


def zeros_of(graph: Graph, zeros: Collection[Value]) -> set[Value]:
    """Every Value that is zero because those in ``zeros`` are."""
    zero = set(zeros)
    for value in graph.values:
        among = tuple(operand in zero for operand in value.operands)
        if any(among) and _is_zero(value, among):
            zero.add(value)
    return zero


def without(graph: Graph, zeros: Collection[Value]) -> Graph:
    """``graph`` where those in ``zeros`` are zero: what is added or subtracted and zero is left out."""
    zero = zeros_of(graph, zeros)

    def left(value: Value, operands: tuple[Value, ...]) -> Value | None:
        if value in zero or not isinstance(value.op, Add | Sub):
            return None
        kept = [new for old, new in zip(value.operands, operands, strict=True) if old not in zero]
        is_rest = (
            len(kept) == 1 and kept[0].type == value.type and not (value.operands[0] in zero and value.op == Sub())
        )
        return kept[0] if is_rest else None

    return rebuilt(graph, left)


def is_linear_in(graph: Graph, leaves: Collection[Value]) -> bool:
    """Whether all that ``leaves`` do in ``graph`` is to add something that is linear in all of them together."""
    zero = zeros_of(graph, leaves)
    for value in graph.values:
        among = [operand in zero for operand in value.operands]
        if value in zero:
            if all(among) and len(among) > 1 and isinstance(value.op, PRODUCTS):
                return False
        elif any(among) and not isinstance(value.op, Add) and not (isinstance(value.op, Sub) and not among[0]):
            return False
    return zero.isdisjoint(graph.outputs.values())


def _is_zero(value: Value, among: tuple[bool, ...]) -> bool:
    """Whether ``value`` is zero because the operands marked in ``among`` are."""
    match value.op:
        case Mul() | MatMul():
            return True
        case Conv():
            return len(among) == 2
        case Add() | Sub():
            return all(among)
        case Gather():
            return among[0]
    if value.op.view:
        return among[0]
    return not value.op.takes_results and value.op.is_linear(among, tuple([o.type for o in value.operands]), 0)
