"""Showing that a graph does nothing but its base computes where some of its leaves are zero or empty."""

from __future__ import annotations

from collections.abc import Collection

from lora_graph.ir.graph import Graph
from lora_graph.ir.value import Value
from lora_graph.ops.arithmetic import Add, Mul, Sub
from lora_graph.ops.convolution import Conv
from lora_graph.ops.gather import Gather
from lora_graph.ops.linalg import MatMul

PRODUCTS = (Mul, MatMul, Conv)


def obstacle(graph: Graph, zeros: Collection[Value], *, linear: bool = False) -> Value | None:
    """The first Value for which it cannot be shown that zeros in ``zeros`` change nothing; None if there is none.

    What is linear in zeros is zero; adding or subtracting a zero changes nothing. Where all is ``linear``, no two
    Values that depend on ``zeros`` are multiplied with each other either.
    """
    zero = set(zeros)
    for value in graph.values:
        among = tuple(operand in zero for operand in value.operands)
        if not any(among):
            continue
        if _is_zero(value, among) and not (linear and all(among) and isinstance(value.op, PRODUCTS)):
            zero.add(value)
        elif not isinstance(value.op, Add) and not (isinstance(value.op, Sub) and not among[0]):
            return value
    return next((value for value in graph.outputs.values() if value in zero), None)


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
