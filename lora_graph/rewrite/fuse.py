"""Fusion: recognising the subgraphs that fused ops are names for."""

from __future__ import annotations

import inspect
import math
from typing import Any

from lora_graph.ir.leaves import Constant
from lora_graph.ir.types import broadcast
from lora_graph.ir.value import Value, apply
from lora_graph.ops.accumulate import add_matmul
from lora_graph.ops.activation import Elu, Gelu, LeakyRelu, Softplus, Swish
from lora_graph.ops.arithmetic import Add
from lora_graph.ops.fused import Fused
from lora_graph.ops.linalg import Gemm, MatMul
from lora_graph.ops.logic import IsNaN
from lora_graph.ops.normalization import LayerNormalization
from lora_graph.ops.reduce import ReduceSum, Softmax
from lora_graph.ops.safe_softmax import SafeSoftmax
from lora_graph.ops.select import Where
from lora_graph.ops.shape import Transpose
from lora_graph.ops.squares import ReduceSumSquare
from lora_graph.rewrite.pattern import Hole, Node, Pattern, any_op
from lora_graph.rewrite.rule import Facts, Outcome, Rule, rule


def fusion(op: Fused) -> Rule:
    """The rule whose pattern is the decomposition of ``op``; an attribute that is a Hole is read from a scalar."""
    written = {name: attribute for name, attribute in op.attributes().items() if not isinstance(attribute, Hole)}
    holes = [name for name in op.attributes() if name not in written]
    names = [f"x{i}" for i in range(len(inspect.signature(op.decompose).parameters))]
    pattern = op.decompose(*map(Hole, names))
    assert isinstance(pattern, Node)

    def rewrite(facts: Facts, **found: Value) -> Outcome:
        numbers = {name: _number(found[name]) for name in holes}
        if None in numbers.values():
            return None
        return apply(type(op)(**written, **numbers), *(found[name] for name in names))

    return Rule(" ".join(["fuse", op.name, *map(str, written.values()), *holes]), pattern, rewrite)


def _number(value: Value) -> float | None:
    """What a scalar constant is, if that is a finite number."""
    number = float(value.op.value) if isinstance(value.op, Constant) and not value.shape else math.nan
    return number if math.isfinite(number) else None


def _layer_normalization(x: Pattern, scale: Pattern, epsilon: Pattern) -> Pattern:
    centred = x - x.mean(axis=-1, keepdims=True)
    return centred / ((centred * centred).mean(axis=-1, keepdims=True) + epsilon).sqrt() * scale


@rule(_layer_normalization)
def fuse_layer_normalization(facts: Facts, x: Value, scale: Value, epsilon: Value) -> Outcome:
    """(x - μ) / √(σ² + ε) · scale → LayerNormalization"""
    number = _number(epsilon)
    if number is None or scale.shape != x.shape[-1:]:
        return None
    return apply(LayerNormalization(-1, number), x, scale)


@rule(lambda x, scale, bias: any_op(Add, any_op(LayerNormalization, x, scale, name="norm"), bias))
def fuse_normalization_bias(facts: Facts, x: Value, scale: Value, bias: Value, norm: Value) -> Outcome:
    """LayerNormalization(x, scale) + bias → LayerNormalization(x, scale, bias)"""
    return apply(norm.op, x, scale, bias) if bias.shape == scale.shape else None


@rule(lambda x: any_op(ReduceSum, x * x, name="total"))
def fuse_sum_of_squares(facts: Facts, x: Value, total: Value) -> Outcome:
    """Σ x · x → ReduceSumSquare(x)"""
    assert isinstance(total.op, ReduceSum)
    return apply(ReduceSumSquare(total.op.axes, total.op.keepdims), x) if x.type.is_float else None


@rule(lambda p: any_op(Where, any_op(IsNaN, p), 0.0, p))
def fuse_safe_softmax(facts: Facts, p: Value) -> Outcome:
    """softmax(x) with 0 in place of NaN → SafeSoftmax(x)"""
    return apply(SafeSoftmax(p.op.axis), *p.operands) if isinstance(p.op, Softmax) else None


@rule(lambda a, b, c: any_op(Add, any_op(MatMul, a, b), c))
def fuse_gemm(facts: Facts, a: Value, b: Value, c: Value) -> Outcome:
    """a b + c → Gemm(a, b, c), with transposed factors as flags"""
    if a.rank != 2 or b.rank != 2 or c.rank > 2:
        return None
    shape = (a.shape[0], b.shape[1])
    if broadcast(shape, c.shape, "Gemm") != shape:
        return None
    flips = [int(isinstance(operand.op, Transpose) and operand.op.perm == (1, 0)) for operand in (a, b)]
    factors = [operand.operands[0] if flip else operand for operand, flip in zip((a, b), flips, strict=True)]
    return apply(Gemm(transA=flips[0], transB=flips[1]), *factors, c)


@rule(lambda a, b, q, bias: any_op(Add, any_op(Add, any_op(MatMul, a, b, name="product"), q), bias))
def add_bias_first(facts: Facts, a: Value, b: Value, q: Value, bias: Value, product: Value) -> Outcome:
    """(a b + q) + bias → (a b + bias) + q, so that a Gemm takes its bias along

    Products of more axes stay none: a runtime fuses the bias with what follows, such as Gelu.
    """
    if product.rank != 2 or bias.rank > 1 or q.shape != product.shape or not facts.is_static(bias):
        return None
    return (product + bias) + q


@rule(lambda c, a, b: any_op(Add, c, any_op(MatMul, a, b, name="product")))
def accumulate_product(facts: Facts, c: Value, a: Value, b: Value, product: Value) -> Outcome:
    """c + a b → AddMatMul(c, a, b), which needs no memory for the product"""
    return add_matmul(c, a, b) if a.rank > 1 and b.rank == 2 and c.type == product.type else None


_ALPHA: Any = Hole("alpha")
FUSED = [
    *map(fusion, (Gelu(), Gelu("tanh"), Softplus(), Swish(), Swish(_ALPHA), Elu(), Elu(_ALPHA), LeakyRelu(_ALPHA))),
    fuse_layer_normalization,
    fuse_normalization_bias,
    fuse_sum_of_squares,
    fuse_safe_softmax,
]
ORDER = [add_bias_first]
GEMM = [fuse_gemm]
ACCUMULATE = [accumulate_product]
