"""Merging is rewriting: a bypass that is linear in its input disappears into the weight beside it.

    x W + d(x)  →  x (W + d(I))      where d is linear in the features of x

The weight of a linear map is its value at the identity matrix, whatever the map is made of: a low-rank pair, a
Kronecker product, a sum of several adapters, a user's own invention. What W + d(I) comes to is computed in the prelude.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np

from lora_graph.ir.dims import Shape
from lora_graph.ir.value import Value, apply, topological
from lora_graph.ops.arithmetic import Add, Mul, Sub
from lora_graph.ops.linalg import Gemm, MatMul, eye
from lora_graph.ops.shape import Reshape
from lora_graph.ops.stop_gradient import StopGradient
from lora_graph.rewrite.pattern import any_op
from lora_graph.rewrite.rule import Facts, Outcome, Refusal, rule

MAX_BYPASS = 256
"""Ops that a bypass may have; a longer one is not looked at, which keeps merging linear in the size of the graph."""
MAX_BEHIND = 16
"""Ops that are looked at behind one that is not linear, to tell a bypass that is none from what is no bypass."""


@rule(lambda x, w, d: any_op(Add, any_op(MatMul, x, w), d))
def merge_bypass(facts: Facts, x: Value, w: Value, d: Value) -> Outcome:
    """x W + d(x) → x (W + d(I))"""
    return _merged(facts, x, w, d, lambda change: x @ (w + change))


@rule(lambda x, w, b, d: any_op(Add, any_op(Add, any_op(MatMul, x, w), b), d))
def merge_bypass_beside_bias(facts: Facts, x: Value, w: Value, b: Value, d: Value) -> Outcome:
    """(x W + b) + d(x) → x (W + d(I)) + b"""
    return _merged(facts, x, w, d, lambda change: x @ (w + change) + b)


@rule(lambda x, w, b, d: any_op(Add, any_op(MatMul, x, w), any_op(Add, d, b)))
def merge_bypass_with_bias(facts: Facts, x: Value, w: Value, b: Value, d: Value) -> Outcome:
    """x W + (d(x) + b) → x (W + d(I)) + b"""
    return _merged(facts, x, w, d, lambda change: x @ (w + change) + b)


@rule(lambda x, w, b, d, c: any_op(Add, any_op(Add, any_op(MatMul, x, w), b), any_op(Add, d, c)))
def merge_bypass_between_biases(facts: Facts, x: Value, w: Value, b: Value, d: Value, c: Value) -> Outcome:
    """(x W + b) + (d(x) + c) → x (W + d(I)) + (b + c)"""
    return _merged(facts, x, w, d, lambda change: x @ (w + change) + (b + c))


@rule(lambda x, w, d: any_op(Sub, any_op(MatMul, x, w), d))
def merge_subtracted(facts: Facts, x: Value, w: Value, d: Value) -> Outcome:
    """x W - d(x) → x (W - d(I))"""
    return _merged(facts, x, w, d, lambda change: x @ (w - change))


@rule(lambda x, w, b, d: any_op(Sub, any_op(Add, any_op(MatMul, x, w), b), d))
def merge_subtracted_beside_bias(facts: Facts, x: Value, w: Value, b: Value, d: Value) -> Outcome:
    """(x W + b) - d(x) → x (W - d(I)) + b"""
    return _merged(facts, x, w, d, lambda change: x @ (w - change) + b)


@rule(lambda x, w, s: any_op(Mul, any_op(MatMul, x, w), s))
def scale_columns(facts: Facts, x: Value, w: Value, s: Value) -> Outcome:
    """(x W) s → x (W s) for one factor for each column"""
    is_row = w.rank == 2 and s.shape == w.shape[1:]
    return x @ (w * s) if is_row and facts.is_foldable(w, s) and not facts.is_static(x) else None


@rule(lambda x, w, b, c: any_op(Add, any_op(Add, any_op(MatMul, x, w, name="product"), b), c))
def gather_biases(facts: Facts, x: Value, w: Value, b: Value, c: Value, product: Value) -> Outcome:
    """(x W + b) + c → x W + (b + c) for one number for each column"""
    are_rows = b.shape == c.shape == product.shape[-1:]
    is_ahead = facts.is_foldable(b, c) and not facts.is_foldable(product)  # or b, a product itself, would be the next
    return product + (b + c) if are_rows and is_ahead else None


@rule(lambda x: any_op(StopGradient, x), free=True)
def drop_stop_gradient(facts: Facts, x: Value) -> Outcome:
    """stop_gradient(x) → x, where nothing trains any more"""
    return x


@rule(lambda a, b: any_op(Gemm, a, b, name="gemm"))
def unfuse_product(facts: Facts, a: Value, b: Value, gemm: Value) -> Outcome:
    """Gemm(a, b) → its decomposition, so that the other rules see the product"""
    return gemm.op.decompose(a, b)  # type: ignore[attr-defined, no-any-return]


@rule(lambda a, b, c: any_op(Gemm, a, b, c, name="gemm"))
def unfuse_gemm(facts: Facts, a: Value, b: Value, c: Value, gemm: Value) -> Outcome:
    """Gemm(a, b, c) → its decomposition, so that the other rules see the product"""
    return gemm.op.decompose(a, b, c)  # type: ignore[attr-defined, no-any-return]


def _merged(facts: Facts, x: Value, w: Value, d: Value, build: Callable[[Value], Value]) -> Outcome:
    """What ``build`` makes of d(I), if ``d`` is a bypass of x W and the sum may be computed ahead of time."""
    if w.rank != 2 or facts.is_static(d) or facts.is_static(x):
        return None
    change = linear_weight(facts, d, x)
    if not isinstance(change, Value):
        return change
    if d.shape[:-1] != x.shape[:-1]:
        return Refusal(f"the bypass has the shape {d.type}, which does not fit beside {x.type}")
    if not facts.is_static(w):
        return Refusal(f"the weight {w.type} that the bypass stands beside depends on the inputs")
    if not facts.is_foldable(w, change):
        return Refusal("the merged weight may not be computed ahead of time here")
    return build(change)


def linear_weight(facts: Facts, d: Value, x: Value) -> Value | Refusal | None:
    """The matrix M with d = x M, from the value of d at the identity.

    None where d has nothing to do with x; a Refusal where it depends on x but is not linear in its features.
    """
    path = _path(facts, d, x)
    if not isinstance(path, set):
        return path
    lead_rank, (features,) = x.rank - 1, x.shape[-1:]
    if lead_rank < 1 or not isinstance(features, int):
        return Refusal(f"{x.type} has no batch axis before one axis of features")
    if d.rank != x.rank:
        return Refusal(f"the bypass from {x.type} ends in {d.type}, which has more than one axis of features")
    lead: Shape = (*(1,) * (lead_rank - 1), features)
    identity = _identity(lead, features, x.dtype)
    new: dict[Value, Value] = {x: identity}
    for value in topological([d], stop=lambda v: v is x or v not in path):
        operands = [new.get(operand, operand) for operand in _operands(value, x)]
        if operands[0] is identity and lead_rank == 1 and isinstance(value.op, MatMul):
            new[value] = operands[1]  # what identity_times would make of it
        else:
            new[value] = apply(value.op.with_lead(lead), *operands)
    return new[d].reshape((features, d.shape[-1]))


@lru_cache(maxsize=64)
def _identity(lead: Shape, features: int, dtype: np.dtype[Any]) -> Value:
    return eye(features, dtype).reshape((*lead, features))


def _path(facts: Facts, d: Value, x: Value) -> set[Value] | Refusal | None:
    """The Values between x and d, if each of them is linear; see :func:`linear_weight` for the other results."""
    path: set[Value] = set()
    stack, reached = [d], False
    while stack:
        value = stack.pop()
        if value is x:
            reached = True
        elif value not in path and not facts.is_static(value):
            path.add(value)
            if len(path) > MAX_BYPASS:
                return None
            operands = _operands(value, x)
            if not is_linear(facts, value, operands, x.rank - 1):
                return obstacle(value, x, stack)
            stack.extend(operands)
    return path if reached else None


def is_linear(facts: Facts, value: Value, operands: tuple[Value, ...], lead: int) -> bool:
    """Whether ``value`` is linear in those of its ``operands`` that are not static; see :meth:`Op.is_linear`."""
    if not operands or value.op.takes_results:
        return False
    varying = tuple([not facts.is_static(operand) for operand in operands])
    return value.op.is_linear(varying, tuple([operand.type for operand in operands]), lead)


def _operands(value: Value, x: Value) -> tuple[Value, ...]:
    """What ``value`` is computed from; a Reshape of what x is one of, two in a row having become one, is one of x."""
    is_again = isinstance(value.op, Reshape) and isinstance(x.op, Reshape) and value.operands == x.operands
    return (x,) if is_again else value.operands


def obstacle(at: Value, x: Value, rest: list[Value]) -> Refusal | None:
    """A Refusal if x is reached behind ``at`` or beside it, None where there is no bypass of x at all."""
    found = list(dict.fromkeys([*at.operands, *reversed(rest)]))
    for value in found:
        if value is x:
            if not at.operands:
                return Refusal(f"the bypass depends on {at.op.name} {at.result_type} besides {x.type}")
            return Refusal(f"{at.op.name} on the way is not linear in {x.type}")
        if len(found) < MAX_BEHIND:
            found.extend(operand for operand in value.operands if operand not in found)
    return None


UNFUSE = [unfuse_product, unfuse_gemm]
MERGE = [
    merge_bypass,
    merge_bypass_beside_bias,
    merge_bypass_with_bias,
    merge_bypass_between_biases,
    merge_subtracted,
    merge_subtracted_beside_bias,
    scale_columns,
    gather_biases,
    drop_stop_gradient,
]
