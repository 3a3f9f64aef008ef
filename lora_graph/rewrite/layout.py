"""Algebra of transposes, reshapes and the other ops that only move elements."""

from __future__ import annotations

from lora_graph.ir.dims import product
from lora_graph.ir.value import Value
from lora_graph.ops.arithmetic import Mul
from lora_graph.ops.linalg import MatMul
from lora_graph.ops.shape import Expand, Reshape, Squeeze, Transpose, Unsqueeze, expand, unsqueeze
from lora_graph.ops.slice import Concat, Pad, Slice
from lora_graph.rewrite.pattern import any_op
from lora_graph.rewrite.rule import Facts, Outcome, rule


@rule(lambda x: any_op(Transpose, x, name="outer"))
def transpose_to_same_order(facts: Facts, x: Value, outer: Value) -> Outcome:
    """A transpose that keeps the order → x"""
    return x if _perm(outer) == tuple(range(x.rank)) else None


@rule(lambda x: any_op(Transpose, any_op(Transpose, x, name="inner"), name="outer"), free=True)
def transpose_twice(facts: Facts, x: Value, inner: Value, outer: Value) -> Outcome:
    """Two transposes → one"""
    return x.transpose([_perm(inner)[axis] for axis in _perm(outer)])


@rule(lambda a, b: any_op(Transpose, any_op(MatMul, a, b), name="outer"))
def transpose_of_product(facts: Facts, a: Value, b: Value, outer: Value) -> Outcome:
    """(a b)ᵀ → bᵀ aᵀ where a factor is a transpose already"""
    swaps = _perm(outer) == (1, 0) and a.rank == b.rank == 2
    return b.T @ a.T if swaps and (isinstance(a.op, Transpose) or isinstance(b.op, Transpose)) else None


@rule(lambda x: any_op(Reshape, x, name="outer"))
def reshape_to_same(facts: Facts, x: Value, outer: Value) -> Outcome:
    """A reshape to the shape x has → x"""
    return x if outer.shape == x.shape else None


@rule(lambda x: any_op(Reshape, any_op(Reshape, x), name="outer"), free=True)
def reshape_twice(facts: Facts, x: Value, outer: Value) -> Outcome:
    """Two reshapes → the last"""
    return x.reshape(outer.shape)


@rule(lambda x, s: any_op(Mul, any_op(Reshape, x, name="inner"), s))
def scale_before_reshape(facts: Facts, x: Value, s: Value, inner: Value) -> Outcome:
    """reshape(x) · s → reshape(x · s) for a scalar s, so that it reaches the product before"""
    return None if s.shape else (x * s).reshape(inner.shape)


@rule(lambda x: any_op(Transpose, any_op(Reshape, x, name="inner"), name="outer"))
def transpose_before_joining(facts: Facts, x: Value, inner: Value, outer: Value) -> Outcome:
    """(reshape of x that joins its first axes)ᵀ → reshape(xᵀ) where the joined axis stays first"""
    joined = x.rank - inner.rank + 1
    if joined < 2 or inner.shape != (product(x.shape[:joined]), *x.shape[joined:]) or _perm(outer)[:1] != (0,):
        return None
    moved = [axis + joined - 1 for axis in _perm(outer)[1:]]
    return x.transpose([*range(joined), *moved]).reshape(outer.shape)


@rule(lambda x: any_op(Unsqueeze, any_op(Unsqueeze, x), name="outer"), free=True)
def unsqueeze_twice(facts: Facts, x: Value, outer: Value) -> Outcome:
    """Axes added twice → at once"""
    inner = outer.operands[0]
    assert isinstance(outer.op, Unsqueeze)
    assert isinstance(inner.op, Unsqueeze)
    last = {axis % outer.rank for axis in outer.op.axes}
    kept = [axis for axis in range(outer.rank) if axis not in last]
    first = {kept[axis % inner.rank] for axis in inner.op.axes}
    return unsqueeze(x, tuple(sorted(first | last)))


@rule(lambda x: any_op(Squeeze, any_op(Unsqueeze, x), name="outer"), free=True)
def squeeze_unsqueezed(facts: Facts, x: Value, outer: Value) -> Outcome:
    """Axes added and taken away again → x"""
    return x if outer.shape == x.shape else None


@rule(lambda x: any_op(Unsqueeze, any_op(Squeeze, x), name="outer"), free=True)
def unsqueeze_squeezed(facts: Facts, x: Value, outer: Value) -> Outcome:
    """Axes taken away and added again → x"""
    return x if outer.shape == x.shape else None


@rule(lambda x: any_op(Expand, x, name="outer"))
def expand_to_same(facts: Facts, x: Value, outer: Value) -> Outcome:
    """An expand to the shape x has → x"""
    return x if outer.shape == x.shape else None


@rule(lambda x: any_op(Expand, any_op(Expand, x), name="outer"), free=True)
def expand_twice(facts: Facts, x: Value, outer: Value) -> Outcome:
    """Two expands → the last"""
    return expand(x, outer.shape)


@rule(lambda x: any_op(Slice, x, name="outer"))
def slice_of_everything(facts: Facts, x: Value, outer: Value) -> Outcome:
    """A slice that takes every element in order → x"""
    in_order = isinstance(outer.op, Slice) and all(step == 1 for step in outer.op.steps)
    return x if in_order and outer.shape == x.shape else None


@rule(lambda x: any_op(Pad, x, name="outer"))
def pad_with_nothing(facts: Facts, x: Value, outer: Value) -> Outcome:
    """A pad of width 0 → x"""
    return x if _pads_nothing(outer) else None


@rule(lambda x, v: any_op(Pad, x, v, name="outer"))
def pad_with_value_nothing(facts: Facts, x: Value, v: Value, outer: Value) -> Outcome:
    """A pad of width 0 with a value of its own → x"""
    return x if _pads_nothing(outer) else None


@rule(lambda x: any_op(Concat, x))
def concat_of_one(facts: Facts, x: Value) -> Outcome:
    """A concatenation of one → x"""
    return x


def _perm(transposed: Value) -> tuple[int, ...]:
    assert isinstance(transposed.op, Transpose)
    return transposed.op.perm


def _pads_nothing(padded: Value) -> bool:
    return isinstance(padded.op, Pad) and all(width == 0 for width in padded.op.pads)


LAYOUT = [
    transpose_to_same_order,
    transpose_twice,
    transpose_of_product,
    reshape_to_same,
    reshape_twice,
    scale_before_reshape,
    transpose_before_joining,
    unsqueeze_twice,
    squeeze_unsqueezed,
    unsqueeze_squeezed,
    expand_to_same,
    expand_twice,
    slice_of_everything,
    pad_with_nothing,
    pad_with_value_nothing,
    concat_of_one,
]
