"""Weights that one model has transposed: products that read a matrix the other way round."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from lora_graph.inspect.diffing.matching import Matching
from lora_graph.inspect.diffing.regions import matched_operands
from lora_graph.inspect.diffing.side import Side
from lora_graph.ir.leaves import Parameter
from lora_graph.ir.value import Value
from lora_graph.ops.linalg import Gemm, MatMul
from lora_graph.ops.shape import Transpose

Reading = tuple[int, bool]
"""The operand of a product that a matrix is, and whether transposed."""


def is_turned(known: Matching, p: Value, q: Value) -> bool:
    """Whether products read the matrices ``p`` and ``q`` in opposite ways: one stands where the other is transposed."""
    if len(known.a.shape(p)) != 2 or known.a.shape(p) != known.b.shape(q)[::-1]:
        return False
    ours, theirs = set(_readings(known.a, p)), set(_readings(known.b, q))
    return not ours & theirs and any((number, not flip) in theirs for number, flip in ours)


def is_only_turned(known: Matching, p: Value, q: Value) -> bool:
    """Whether all that two ops differ in is that one reads its weight transposed."""
    first, second = known.a.ops[p], known.b.ops[q]
    if not (isinstance(first, Gemm) and isinstance(second, Gemm)) or first.transB == second.transB:
        return False
    x, y = p.operands[1], q.operands[1]
    are_weights = isinstance(x.op, Parameter) and isinstance(y.op, Parameter)
    return are_weights and replace(first, transB=second.transB) == second and is_turned(known, x, y)


def pair_turned(known: Matching) -> None:
    """Match the parameters that matched ops use if one is transposed to be used like the other."""
    for user, other in list(known.match.items()):
        for x, y in matched_operands(known, user, other):
            p, q = _matrix(x), _matrix(y)
            if (p, q) != (x, y) and known.are_open(p, q) and known.may_be(p, q) and is_turned(known, p, q):
                known.record(p, q)


def _matrix(value: Value) -> Value:
    """What ``value`` is the transpose of, if it is one."""
    return value.operands[0] if isinstance(value.op, Transpose) and value.rank == 2 else value


def _readings(side: Side, leaf: Value, flip: bool = False) -> Iterator[Reading]:
    for user, _ in side.users[leaf]:
        if isinstance(user.op, Transpose) and not flip:
            yield from _readings(side, user, flip=True)
        elif isinstance(user.op, MatMul | Gemm):
            flips = (user.op.transA, user.op.transB) if isinstance(user.op, Gemm) else (0, 0)
            for number, turned in enumerate(flips):
                if user.operands[number] is leaf:
                    yield number, bool(turned) != flip
