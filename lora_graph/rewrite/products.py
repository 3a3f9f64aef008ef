"""Matrix products: in which order to multiply, and where a scalar factor costs least."""

from __future__ import annotations

from collections.abc import Callable

from lora_graph.ir.leaves import Constant
from lora_graph.ir.value import Value
from lora_graph.ops.arithmetic import Mul
from lora_graph.ops.linalg import EyeLike, MatMul
from lora_graph.rewrite import cost
from lora_graph.rewrite.pattern import any_op
from lora_graph.rewrite.rule import Facts, Outcome, rule


@rule(lambda a, b, c: any_op(MatMul, any_op(MatMul, a, b), c))
def associate_right(facts: Facts, a: Value, b: Value, c: Value) -> Outcome:
    """(a b) c → a (b c) where that is less work"""
    if b.rank != 2 or c.rank != 2:
        return None
    now = cost.flops(a @ b) + cost.flops((a @ b) @ c)
    return a @ (b @ c) if _product_cost(facts, b, c) + cost.flops(a @ (b @ c)) < now else None


@rule(lambda a, b, c: any_op(MatMul, a, any_op(MatMul, b, c)))
def associate_left(facts: Facts, a: Value, b: Value, c: Value) -> Outcome:
    """a (b c) → (a b) c where that is less work"""
    if b.rank != 2 or c.rank != 2 or a.rank < 2:
        return None
    now = _product_cost(facts, b, c) + cost.flops(a @ (b @ c))
    return (a @ b) @ c if cost.flops(a @ b) + cost.flops((a @ b) @ c) < now else None


@rule(lambda a, b, s: any_op(Mul, any_op(MatMul, a, b), s))
def scale_factor_of_product(facts: Facts, a: Value, b: Value, s: Value) -> Outcome:
    """(a b) s → (a s) b or a (b s) for a scalar s, where it touches fewer elements"""
    if s.shape or b.rank < 2:
        return None
    return _place_scale(facts, a, b, s, cost.size((a @ b).type))


@rule(lambda a, b, s: any_op(MatMul, any_op(Mul, a, s), b))
def scale_left_factor(facts: Facts, a: Value, b: Value, s: Value) -> Outcome:
    """(a s) b → a (b s) or (a b) s for a scalar s, where it touches fewer elements"""
    if s.shape or b.rank < 2:
        return None
    return _place_scale(facts, a, b, s, _scale_cost(facts, a, s))


@rule(lambda a, b, s: any_op(MatMul, a, any_op(Mul, b, s)))
def scale_right_factor(facts: Facts, a: Value, b: Value, s: Value) -> Outcome:
    """a (b s) → (a s) b or (a b) s for a scalar s, where it touches fewer elements"""
    if s.shape or b.rank < 2:
        return None
    return _place_scale(facts, a, b, s, _scale_cost(facts, b, s))


@rule(lambda a, b, s, t: any_op(MatMul, any_op(Mul, a, s), any_op(Mul, b, t)))
def gather_scales_of_factors(facts: Facts, a: Value, b: Value, s: Value, t: Value) -> Outcome:
    """(a s) (b t) → a (b (s t)) or (a (s t)) b for scalar constants, on the factor with fewer elements"""
    if a.rank < 2 or b.rank < 2 or not all(isinstance(scale.op, Constant) and not scale.shape for scale in (s, t)):
        return None
    return (a * s * t) @ b if cost.size(a.type) < cost.size(b.type) else a @ (b * t * s)


@rule(lambda e, a: any_op(MatMul, any_op(EyeLike, e), a))
def identity_times(facts: Facts, e: Value, a: Value) -> Outcome:
    """I A → A"""
    return a if e.shape[0] == e.shape[1] else None


def _place_scale(facts: Facts, a: Value, b: Value, s: Value, now: int) -> Outcome:
    if facts.fold != "none" and facts.is_foldable(a, b, s):
        return None  # the whole product is computed ahead of time
    # b before a among equals: the convention folds the scale of an adapter into B
    options: list[tuple[int, Callable[[], Value]]] = [
        (_scale_cost(facts, b, s), lambda: a @ (b * s)),
        (_scale_cost(facts, a, s), lambda: (a * s) @ b),
        (cost.size((a @ b).type), lambda: (a @ b) * s),
    ]
    best, build = min(options, key=lambda option: option[0])
    return build() if best < now else None


def _scale_cost(facts: Facts, x: Value, s: Value) -> int:
    """Elements to scale; none where the scaled weight is computed ahead of time."""
    return 0 if facts.fold != "none" and facts.is_foldable(x, s) else cost.size(x.type)


def _product_cost(facts: Facts, b: Value, c: Value) -> int:
    return 0 if facts.fold != "none" and facts.is_foldable(b, c) else cost.flops(b @ c)


PLACE_SCALES = [
    scale_factor_of_product,
    scale_left_factor,
    scale_right_factor,
    gather_scales_of_factors,
    identity_times,
]
PRODUCTS = [associate_right, associate_left, *PLACE_SCALES]
