"""Identities of arithmetic that hold for every number, infinities and NaN included.

Results are equal as numbers; only the sign of a zero is not kept: x + 0.0 → x turns a 0.0 into the -0.0 that x was
(x + (-0.0) → x and x - 0.0 → x are exact). Factors are gathered only where their product stays a normal number.
"""

from __future__ import annotations

import numpy as np

from lora_graph.ir.leaves import Constant, constant
from lora_graph.ir.types import broadcast
from lora_graph.ir.value import Value
from lora_graph.ops.arithmetic import Add, Div, Mul
from lora_graph.ops.logic import And
from lora_graph.ops.select import Cast
from lora_graph.ops.shape import Expand, expand
from lora_graph.ops.unary import Neg
from lora_graph.rewrite.pattern import any_op
from lora_graph.rewrite.rule import Facts, Outcome, Refusal, rule


@rule(lambda x: x + 0.0)
def add_zero(facts: Facts, x: Value) -> Outcome:
    """x + 0 → x"""
    return x


@rule(lambda x: x - 0.0)
def subtract_zero(facts: Facts, x: Value) -> Outcome:
    """x - 0 → x"""
    return x


@rule(lambda x: x * 1.0)
def multiply_by_one(facts: Facts, x: Value) -> Outcome:
    """x · 1 → x"""
    return x


@rule(lambda x: x / 1.0)
def divide_by_one(facts: Facts, x: Value) -> Outcome:
    """x / 1 → x"""
    return x


@rule(lambda x: x * -1.0, free=True)
def multiply_by_minus_one(facts: Facts, x: Value) -> Outcome:
    """x · (-1) → -x"""
    return -x


@rule(lambda x: x**1.0)
def power_one(facts: Facts, x: Value) -> Outcome:
    """x¹ → x"""
    return x


@rule(lambda x: x**2.0)
def square(facts: Facts, x: Value) -> Outcome:
    """x² → x · x"""
    return x * x


@rule(lambda x: any_op(Neg, any_op(Neg, x)), free=True)
def negate_twice(facts: Facts, x: Value) -> Outcome:
    """-(-x) → x"""
    return x


@rule(lambda x, y: x + any_op(Neg, y), free=True)
def add_negative(facts: Facts, x: Value, y: Value) -> Outcome:
    """x + (-y) → x - y"""
    return x - y


@rule(lambda x, y: x - any_op(Neg, y), free=True)
def subtract_negative(facts: Facts, x: Value, y: Value) -> Outcome:
    """x - (-y) → x + y"""
    return x + y


@rule(lambda x: any_op(Cast, x, name="cast"))
def cast_to_own_type(facts: Facts, x: Value, cast: Value) -> Outcome:
    """x as the type it has → x"""
    return x if x.dtype == cast.dtype else None


@rule(lambda x: any_op(And, x, True))
def and_true(facts: Facts, x: Value) -> Outcome:
    """x and true → x"""
    return x


@rule(lambda x, a, b: x * a * b)
def gather_factors(facts: Facts, x: Value, a: Value, b: Value) -> Outcome:
    """(x · a) · b → x · (a · b) for scalar constants"""
    if not (isinstance(a.op, Constant) and isinstance(b.op, Constant)) or a.shape or b.shape:
        return None
    with np.errstate(all="ignore"):
        factor = np.asarray(a.op.value * b.op.value)
    if a.type.is_float and not np.finfo(a.dtype).tiny <= abs(factor) < np.inf:
        return Refusal(f"the factor {a.op.value} · {b.op.value} is no normal number of {a.dtype.name}")
    return x * constant(factor)


@rule(lambda x, y: any_op(Add, x, any_op(Expand, y), name="total"), free=True)
def add_expanded(facts: Facts, x: Value, y: Value, total: Value) -> Outcome:
    """x + expand(y) → x + y"""
    return x + y if _stretches(x, y, total) else None


@rule(lambda x, y: any_op(Mul, x, any_op(Expand, y), name="product"), free=True)
def multiply_expanded(facts: Facts, x: Value, y: Value, product: Value) -> Outcome:
    """x · expand(y) → x · y"""
    return x * y if _stretches(x, y, product) else None


@rule(lambda x, y: any_op(Div, x, any_op(Expand, y), name="quotient"), free=True)
def divide_expanded(facts: Facts, x: Value, y: Value, quotient: Value) -> Outcome:
    """x / expand(y) → x / y"""
    return x / y if _stretches(x, y, quotient) else None


@rule(lambda y, s: any_op(Mul, any_op(Expand, y, name="wide"), s), free=True)
def scale_before_expand(facts: Facts, y: Value, s: Value, wide: Value) -> Outcome:
    """expand(y) · s → expand(y · s) for a scalar s"""
    return None if s.shape else expand(y * s, wide.shape)


@rule(lambda y: any_op(Neg, any_op(Expand, y, name="wide")), free=True)
def negate_before_expand(facts: Facts, y: Value, wide: Value) -> Outcome:
    """-expand(y) → expand(-y)"""
    return expand(-y, wide.shape)


def _stretches(x: Value, y: Value, result: Value) -> bool:
    """Whether ``y`` needs no expanding to give ``result`` with ``x``."""
    return broadcast(x.shape, y.shape, "expand") == result.shape


@rule(lambda x: x + x)
def add_to_itself(facts: Facts, x: Value) -> Outcome:
    """x + x → 2 x"""
    return x * constant(np.asarray(2, x.dtype)) if x.type.is_float else None


IDENTITIES = [
    add_zero,
    subtract_zero,
    multiply_by_one,
    divide_by_one,
    multiply_by_minus_one,
    power_one,
    square,
    negate_twice,
    add_negative,
    subtract_negative,
    cast_to_own_type,
    and_true,
    gather_factors,
    add_expanded,
    multiply_expanded,
    divide_expanded,
    scale_before_expand,
    negate_before_expand,
    add_to_itself,
]
