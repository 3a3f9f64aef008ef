"""Merging is rewriting: a bypass that is linear in its input disappears into the weight beside it.

    x W + d(x)  →  x (W + d(I))      where d is linear in the features of x

The weight of a linear map is its value at the identity matrix, whatever the map is made of: a low-rank pair, a
Kronecker product, a sum of several adapters, a user's own invention. What W + d(I) comes to is computed in the prelude.
"""

from __future__ import annotations

from lora_graph.ir.dims import Shape
from lora_graph.ir.value import Value, apply, topological
from lora_graph.ops.elementwise import Add
from lora_graph.ops.linalg import EyeLike, Gemm, MatMul, eye
from lora_graph.rewrite.pattern import any_op
from lora_graph.rewrite.rule import Facts, Outcome, Refusal, rule

MAX_BYPASS = 256
"""Ops that a bypass may have; a longer one is not looked at, which keeps merging linear in the size of the graph."""


@rule(lambda x, w, d: any_op(Add, any_op(MatMul, x, w), d))
def merge_bypass(facts: Facts, x: Value, w: Value, d: Value) -> Outcome:
    """x W + d(x) → x (W + d(I))"""
    if w.rank != 2 or not facts.is_foldable(w):
        return None
    change = linear_weight(facts, d, x)
    return x @ (w + change) if isinstance(change, Value) else change


@rule(lambda x, w, b, d: any_op(Add, any_op(Add, any_op(MatMul, x, w), b), d))
def merge_bypass_beside_bias(facts: Facts, x: Value, w: Value, b: Value, d: Value) -> Outcome:
    """(x W + b) + d(x) → x (W + d(I)) + b"""
    if w.rank != 2 or not facts.is_foldable(w):
        return None
    change = linear_weight(facts, d, x)
    return x @ (w + change) + b if isinstance(change, Value) else change


@rule(lambda e, a: any_op(MatMul, any_op(EyeLike, e), a))
def identity_times(facts: Facts, e: Value, a: Value) -> Outcome:
    """I A → A"""
    return a if a.shape[:1] == e.shape[:1] else None


@rule(lambda a, b: any_op(Gemm, a, b, name="gemm"))
def unfuse_product(facts: Facts, a: Value, b: Value, gemm: Value) -> Outcome:
    """Gemm(a, b) → its decomposition, so that the other rules see the product"""
    return gemm.op.decompose(a, b)  # type: ignore[attr-defined, no-any-return]


@rule(lambda a, b, c: any_op(Gemm, a, b, c, name="gemm"))
def unfuse_gemm(facts: Facts, a: Value, b: Value, c: Value, gemm: Value) -> Outcome:
    """Gemm(a, b, c) → its decomposition, so that the other rules see the product"""
    return gemm.op.decompose(a, b, c)  # type: ignore[attr-defined, no-any-return]


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
    lead: Shape = (*(1,) * (lead_rank - 1), features)
    new: dict[Value, Value] = {x: eye(features, x.dtype).reshape((*lead, features))}
    for value in topological([d], stop=lambda v: v is x or v not in path):
        operands = [new.get(operand, operand) for operand in value.operands]
        new[value] = apply(value.op.with_lead(lead), *operands)
    return new[d].reshape((features, d.shape[-1]))


def _path(facts: Facts, d: Value, x: Value) -> set[Value] | Refusal | None:
    """The Values between x and d, if each of them is linear; see :func:`linear_weight` for the other results."""
    path: set[Value] = set()
    reached, obstacle = False, None
    stack = [d]
    while stack:
        value = stack.pop()
        if value is x:
            reached = True
        elif value not in path and not facts.is_static(value):
            path.add(value)
            varying = tuple(not facts.is_static(operand) for operand in value.operands)
            types = tuple(operand.type for operand in value.operands)
            if not value.operands or len(path) > MAX_BYPASS:
                return None
            if not value.op.is_linear(varying, types, x.rank - 1):
                obstacle = value
                if x in value.operands:
                    reached = True
                continue
            stack.extend(value.operands)
    if not reached:
        return None
    if obstacle is not None:
        return Refusal(f"{obstacle.op.name} on the way is not linear in {x.type}")
    return path


UNFUSE = [unfuse_product, unfuse_gemm]
MERGE = [merge_bypass, merge_bypass_beside_bias, identity_times]
