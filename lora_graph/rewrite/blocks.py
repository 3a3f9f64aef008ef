"""Sums of padded blocks: what slices of one Value pass back to it is joined rather than padded and added up."""

from __future__ import annotations

from lora_graph.ir.dims import Dim, is_size
from lora_graph.ir.value import Value
from lora_graph.ops.arithmetic import Add
from lora_graph.ops.slice import Concat, Pad, concat, pad
from lora_graph.rewrite.pattern import any_op
from lora_graph.rewrite.rule import Facts, Outcome, rule


@rule(lambda a, b: any_op(Add, any_op(Pad, a, name="first"), any_op(Pad, b, name="second")))
def join_padded(facts: Facts, a: Value, b: Value, first: Value, second: Value) -> Outcome:
    """pad(a) + pad(b) → pad(concat(a, b)) for blocks that meet along one axis"""
    return _joined(first, second)


@rule(lambda x, a, b: any_op(Add, any_op(Add, x, any_op(Pad, a, name="first")), any_op(Pad, b, name="second")))
def join_padded_in_sum(facts: Facts, x: Value, a: Value, b: Value, first: Value, second: Value) -> Outcome:
    """(x + pad(a)) + pad(b) → x + pad(concat(a, b)) for blocks that meet along one axis"""
    together = _joined(first, second)
    return None if together is None or first.shape != x.shape else x + together


def _joined(first: Value, second: Value) -> Value | None:
    """``first + second`` as one block, if the block of one begins where that of the other ends."""
    if first.shape != second.shape:
        return None
    (a, *more), (b, *others) = first.operands, second.operands
    is_plain = not more and not others and _mode(first) == _mode(second) == "constant"
    differing = [i for i in range(first.rank) if _widths(first, i) != _widths(second, i)]
    if not is_plain or len(differing) != 1:
        return None
    (axis,) = differing
    if not all(map(is_size, (*_widths(first, axis), *_widths(second, axis)))):
        return None
    if _widths(second, axis)[0] + b.shape[axis] == _widths(first, axis)[0]:
        first, second, a, b = second, first, b, a
    if _widths(first, axis)[0] + a.shape[axis] != _widths(second, axis)[0]:
        return None
    both = concat([*_parts(a, axis), *_parts(b, axis)], axis)
    widths = [_widths(first, i) for i in range(first.rank)]
    return pad(both, [before for before, _ in widths], [_widths(second, i)[1] for i in range(first.rank)])


def _mode(padded: Value) -> str:
    assert isinstance(padded.op, Pad)
    return padded.op.mode


def _widths(padded: Value, axis: int) -> tuple[Dim, Dim]:
    """How far ``padded`` goes beyond its operand, before and after."""
    assert isinstance(padded.op, Pad)
    return padded.op.pads[axis], padded.op.pads[axis + padded.rank]


def _parts(x: Value, axis: int) -> tuple[Value, ...]:
    return x.operands if isinstance(x.op, Concat) and x.op.axis % x.rank == axis else (x,)


BLOCKS = [join_padded, join_padded_in_sum]
