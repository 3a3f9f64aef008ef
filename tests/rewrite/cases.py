"""For every rule expressions that it changes, with what they become, and expressions that it leaves alone.

Since equal expressions are one object, ``after`` is compared with ``is``. A rule without both kinds fails the suite.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lora_graph import ops
from lora_graph.ir import OPS, Value, apply, constant
from lora_graph.ops.linalg import eye
from lora_graph.rewrite.algebra import IDENTITIES
from lora_graph.rewrite.blocks import BLOCKS
from lora_graph.rewrite.convolution import MERGE_CONVOLUTIONS, scale_kernel
from lora_graph.rewrite.fuse import ACCUMULATE, FUSED, GEMM, ORDER
from lora_graph.rewrite.layout import LAYOUT
from lora_graph.rewrite.lookup import MERGE_LOOKUPS
from lora_graph.rewrite.loops import SPELL
from lora_graph.rewrite.merge import MERGE, UNFUSE
from lora_graph.rewrite.products import PRODUCTS
from lora_graph.rewrite.rule import Rule

BASIC = (IDENTITIES, LAYOUT, BLOCKS, PRODUCTS)
FAMILIES = (
    *BASIC,
    FUSED,
    ORDER,
    GEMM,
    ACCUMULATE,
    UNFUSE,
    MERGE,
    MERGE_CONVOLUTIONS,
    MERGE_LOOKUPS,
    [scale_kernel],
    SPELL,
)
ALL_RULES = [rule for family in FAMILIES for rule in family]
RULES: dict[str, Rule] = {rule.name: rule for rule in ALL_RULES}


@dataclass(frozen=True)
class Case:
    """``rule`` turns ``before`` into ``after``; where ``after`` is None it leaves it alone, for ``reason`` if given."""

    rule: str
    before: Value
    after: Value | None = None
    reason: str = ""
    also: Value | None = None
    """Another output, which makes users."""
    fold: str = "all"
    exact: bool = False
    """Whether the results are the same numbers, not just close."""
    number: int = 0

    def __str__(self) -> str:
        return f"{self.rule}-{self.number}"


def x(*shape: Any, name: str = "x", dtype: str = "float64") -> Value:
    return ops.input(name, dtype, shape or ("batch", 4))


def p(name: str, *shape: Any, dtype: str = "float64") -> Value:
    return ops.parameter(name, dtype, shape)


def c(value: Any, dtype: str = "float64") -> Value:
    return constant(value, dtype)


def op(name: str, *operands: Any, **attributes: Any) -> Value:
    return apply(OPS[name](**attributes), *operands)  # type: ignore[no-any-return]


X, Y, N = x(), x(name="y"), x(dtype="int32")
ROW, VECTOR, CUBE = x(4, name="row"), p("v", 4), x("batch", "time", 4)
W, V, A, B, b = p("W", 4, 4), p("V", 4, 4), p("A", 4, 2), p("B", 2, 4), p("b", 4)


def identities() -> Iterator[Case]:
    for zero in (0.0, -0.0, [0.0, -0.0, 0.0, 0.0]):
        yield Case("add_zero", X + c(zero), X, exact=True)
        yield Case("subtract_zero", X - c(zero), X, exact=True)
    yield Case("add_zero", c(0.0) + X, X, exact=True)
    yield Case("add_zero", N + 0, N, exact=True)
    yield Case("add_zero", X + 1e-300)
    yield Case("add_zero", ROW + c(np.zeros((3, 4))), reason="change the type from float64[3, 4] to float64[4]")
    yield Case("add_zero", X + c(np.zeros((0, 4)).reshape(0, 4)[:0].sum(0) + 1))
    yield Case("subtract_zero", 0.0 - X)
    yield Case("multiply_by_one", X * 1.0, X, exact=True)
    yield Case("multiply_by_one", 1 * N, N, exact=True)
    yield Case("multiply_by_one", X * c([1.0, 1.0, 1.0, 2.0]))
    yield Case("divide_by_one", X / 1.0, X, exact=True)
    yield Case("divide_by_one", N / 1, N, exact=True)
    yield Case("divide_by_one", 1.0 / X)
    yield Case("multiply_by_minus_one", X * -1.0, -X, exact=True)
    yield Case("multiply_by_minus_one", N * -1, -N, exact=True)
    yield Case("multiply_by_minus_one", x(dtype="uint8") * c(255, "uint8"))
    truth = X > 0.0
    yield Case("and_true", op("And", truth, c(True, "bool")), truth, exact=True)
    yield Case("and_true", op("And", truth, c(False, "bool")))
    yield Case("power_one", X**1.0, X, exact=True)
    yield Case("power_one", c(1.0) ** X)
    yield Case("square", X**2.0, X * X, exact=True)
    yield Case("square", N**2, N * N, exact=True)
    yield Case("square", X**3.0)
    yield Case("negate_twice", op("Neg", -X), X, exact=True)
    yield Case("negate_twice", -(-X).abs())
    yield Case("add_negative", X + (-Y), X - Y, exact=True)
    yield Case("add_negative", (-Y) + X, X - Y, also=-Y, exact=True)
    yield Case("add_negative", X - (-Y))
    yield Case("subtract_negative", X - (-Y), X + Y, exact=True)
    yield Case("subtract_negative", (-X) - Y)
    yield Case("cast_to_own_type", op("Cast", X, to=np.dtype("float64")), X, exact=True)
    yield Case("cast_to_own_type", X.astype("float32"))
    yield Case("gather_factors", X * 3.0 * 0.5, X * 1.5)
    yield Case("gather_factors", 3.0 * (0.5 * X), X * 1.5)
    yield Case("gather_factors", N * 3 * 5, N * 15, exact=True)
    yield Case("gather_factors", X * c([1.0, 2.0, 3.0, 4.0]) * 2.0)
    yield Case("gather_factors", X * 1e-200 * 1e-200, reason="no normal number")
    yield Case("gather_factors", X * 1e200 * 1e200, reason="no normal number")
    yield Case("gather_factors", X * 3.0 * 0.5, reason="used elsewhere", also=X * 3.0)
    wide, column = ops.expand(VECTOR, ("batch", 4)), x("batch", 1, name="y")
    for name, both in (("add_expanded", ops.add), ("multiply_expanded", ops.mul), ("divide_expanded", ops.div)):
        yield Case(name, both(X, wide), both(X, VECTOR), exact=True)
        yield Case(name, both(X, ops.expand(column, ("batch", 4))), both(X, column), exact=True)
        yield Case(name, both(x(1, 4), wide))
        yield Case(name, both(VECTOR, ops.expand(x(1, 4), (3, 4))))
    wide = ops.expand(column, ("batch", 4))
    yield Case("scale_before_expand", wide * 0.3, ops.expand(column * 0.3, ("batch", 4)), exact=True)
    yield Case("scale_before_expand", wide * 0.3, ops.expand(column * 0.3, ("batch", 4)), also=wide, exact=True)
    yield Case("scale_before_expand", wide * VECTOR)
    yield Case("negate_before_expand", -wide, ops.expand(-column, ("batch", 4)), exact=True)
    yield Case("negate_before_expand", -column)
    yield Case("add_to_itself", X + X, X * 2.0, exact=True)
    yield Case("add_to_itself", N + N)
    yield Case("add_to_itself", X + Y)


def layout() -> Iterator[Case]:
    turned, still = op("Transpose", CUBE, perm=(1, 0, 2)), op("Transpose", X, perm=(0, 1))
    yield Case("transpose_to_same_order", still, X, exact=True)
    yield Case("transpose_to_same_order", X.T)
    yield Case("transpose_twice", turned.transpose(2, 0, 1), CUBE.transpose(2, 1, 0), also=turned, exact=True)
    yield Case("transpose_twice", X.T.T, op("Transpose", X, perm=(0, 1)), exact=True)
    yield Case("transpose_twice", X.T.abs().T)
    yield Case("transpose_of_product", (X @ W.T).T, W.T.T @ X.T)
    yield Case("transpose_of_product", (X @ W).T)
    yield Case("transpose_of_product", (X @ W.T).T, reason="used elsewhere", also=X @ W.T)
    yield Case("transpose_of_product", (op("Transpose", x(4, 4, 4), perm=(0, 2, 1)) @ ROW).T)
    same = op("Reshape", X, shape=X.shape)
    yield Case("reshape_to_same", same, X, exact=True)
    yield Case("reshape_to_same", X.reshape("batch", 2, 2))
    yield Case(
        "reshape_twice", CUBE.reshape("batch*time", 4).reshape("batch", "4*time"), CUBE.reshape("batch", "4*time")
    )
    yield Case("reshape_twice", X.reshape("batch", 2, 2).abs().reshape("batch", 4))
    yield Case("scale_before_reshape", X.reshape("batch", 2, 2) * 3.0, (X * 3.0).reshape("batch", 2, 2), exact=True)
    yield Case("scale_before_reshape", X.reshape("batch", 2, 2) * c([3.0, 2.0]))
    yield Case("scale_before_reshape", X.reshape(4, "batch") * 3.0, reason="used", also=X.reshape(4, "batch"))
    joined = CUBE.reshape("batch*time", 4)
    heads = x("batch", 2, 3, 4).reshape("2*batch", 3, 4)
    swapped = x("batch", 2, 3, 4).transpose(0, 1, 3, 2).reshape("2*batch", 4, 3)
    yield Case("transpose_before_joining", heads.transpose(0, 2, 1), swapped, exact=True)
    yield Case("transpose_before_joining", heads.transpose(1, 0, 2))
    yield Case("transpose_before_joining", joined.T)
    yield Case("transpose_before_joining", X.reshape("batch", 2, 2).transpose(0, 2, 1))
    yield Case("transpose_before_joining", heads.transpose(0, 2, 1), reason="used elsewhere", also=heads)
    yield Case("unsqueeze_twice", ops.unsqueeze(ops.unsqueeze(X, 1), 0), ops.unsqueeze(X, (0, 2)), exact=True)
    yield Case("unsqueeze_twice", ops.unsqueeze(ops.unsqueeze(X, -1), -2), ops.unsqueeze(X, (2, 3)), exact=True)
    yield Case("unsqueeze_twice", ops.unsqueeze(ops.unsqueeze(X, 1).abs(), 0))
    yield Case("squeeze_unsqueezed", ops.squeeze(ops.unsqueeze(X, 1), 1), X, exact=True)
    yield Case("squeeze_unsqueezed", ops.squeeze(ops.unsqueeze(x("batch", 1), 0), 2))
    yield Case("unsqueeze_squeezed", ops.unsqueeze(ops.squeeze(x("batch", 1), 1), 1), x("batch", 1), exact=True)
    yield Case("unsqueeze_squeezed", ops.unsqueeze(ops.squeeze(x("batch", 1), 1), 0))
    yield Case("expand_to_same", op("Expand", X, shape=X.shape), X, exact=True)
    yield Case("expand_to_same", op("Expand", X, shape=(1, 4)), X, exact=True)
    yield Case("expand_to_same", ops.expand(VECTOR, ("batch", 4)))
    yield Case("expand_twice", ops.expand(ops.expand(VECTOR, (1, 4)), (3, 4)), ops.expand(VECTOR, (3, 4)), exact=True)
    narrow = op("Expand", ops.expand(x(1), (3,)), shape=(1,))
    yield Case("expand_twice", narrow, ops.expand(x(1), (3,)), exact=True)
    yield Case("expand_twice", ops.expand(ops.expand(VECTOR, (1, 4)).abs(), (3, 4)))
    yield Case("slice_of_everything", op("Slice", X, starts=(0,), ends=(9,), axes=(1,), steps=(1,)), X, exact=True)
    yield Case("slice_of_everything", X[:, ::-1])
    yield Case("slice_of_everything", X[1:])
    for width, after in ((0, X), (1, None)):
        yield Case("pad_with_nothing", op("Pad", X, pads=(0, width, 0, 0)), after, exact=True)
        yield Case("pad_with_value_nothing", op("Pad", X, c(3.0), pads=(0, width, 0, 0)), after, exact=True)
    yield Case("concat_of_one", op("Concat", X, axis=0), X, exact=True)
    yield Case("concat_of_one", ops.concat([X, Y], 0))


def products() -> Iterator[Case]:
    wide = p("U", 4, 512)
    yield Case("associate_right", (X @ wide) @ p("S", 512, 2), X @ (wide @ p("S", 512, 2)))
    yield Case("associate_right", (X @ A) @ p("S", 2, 400), fold="one")
    yield Case("associate_right", (X @ wide) @ p("S", 512, 2), reason="used elsewhere", also=X @ wide)
    yield Case("associate_right", x("batch", 3, 4) @ x("batch", 4, 4, name="y") @ x("batch", 4, 1, name="z"))
    yield Case("associate_left", X @ (A @ B), (X @ A) @ B, fold="none")
    yield Case("associate_left", X @ (A @ B), fold="all")
    yield Case("associate_left", ROW @ (A @ B), fold="none")
    yield Case("associate_left", X @ (A @ B), reason="used elsewhere", also=A @ B, fold="none")
    yield Case("scale_factor_of_product", (X @ A) @ B * 2.0, (X @ A) @ (B * 2.0))
    yield Case("scale_factor_of_product", X @ p("U", 4, 512) * 2.0, (X * 2.0) @ p("U", 4, 512), fold="none")
    yield Case("scale_factor_of_product", X @ W * b)
    yield Case("scale_factor_of_product", X @ W * 2.0, reason="used elsewhere", also=X @ W)
    yield Case("scale_factor_of_product", ROW @ W * 2.0, ROW @ (W * 2.0))
    yield Case("scale_left_factor", (X * 2.0) @ W, X @ (W * 2.0))
    yield Case("scale_left_factor", (X * 2.0) @ p("U", 4, 1), X @ (p("U", 4, 1) * 2.0), fold="none")
    yield Case("scale_left_factor", (X * b) @ W)
    yield Case("scale_left_factor", (A * 2.0) @ B)
    yield Case("scale_right_factor", A @ (X.T * 2.0).reshape(2, "2*batch"))
    yield Case("scale_right_factor", A @ (x(2, "batch") * 2.0), (A * 2.0) @ x(2, "batch"))
    yield Case("scale_right_factor", X @ (W * 2.0))
    yield Case("scale_right_factor", X[:1] @ (W * 2.0), (X[:1] * 2.0) @ W, fold="none")
    small, large = x("batch", 1, 4), x("batch", 4, 9, name="large")
    both = (small * 2.0) @ (large * 3.0)
    yield Case("gather_scales_of_factors", both, (small * c(2.0) * c(3.0)) @ large)
    yield Case("gather_scales_of_factors", (X * 2.0) @ (A * 3.0), X @ (A * c(3.0) * c(2.0)))
    yield Case("gather_scales_of_factors", (X * 2.0) @ (W * b))
    yield Case("gather_scales_of_factors", both, reason="used elsewhere", also=small * 2.0)


def fused() -> Iterator[Case]:
    for name, plain, near in (
        ("fuse Gelu none", ops.gelu, X * 0.5 * (ops.erf(X * math.sqrt(0.4)) + 1.0)),
        ("fuse Gelu tanh", ops.gelu_tanh, X * 0.5 * (Y.tanh()) + X * 0.5),
        ("fuse Softplus", ops.softplus, ops.maximum(X, 0.0) + (1.0 + (-Y.abs()).exp()).log()),
        ("fuse Swish 1.0", ops.silu, X * ops.sigmoid(Y)),
        ("fuse Swish alpha", lambda v: op("Swish", v, alpha=1.5), X * ops.sigmoid(X * VECTOR)),
        ("fuse Elu 1.0", ops.elu, ops.where(X > 0, X, ops.minimum(X, 0.5).exp() - 1.0)),
        ("fuse Elu alpha", lambda v: ops.elu(v, 0.3), ops.where(X > 0, X, ops.minimum(X, 0.0).exp() - 1.0)),
        ("fuse LeakyRelu alpha", lambda v: ops.leaky_relu(v, 0.2), ops.where(X < 0, X * math.inf, X)),
    ):
        spelled = plain(X).op.decompose(X)
        yield Case(name, spelled, plain(X))
        yield Case(name, near)
        yield Case(name, spelled, reason="used elsewhere", also=_inside(spelled))
    norm, centred = OPS["LayerNormalization"](-1, 1e-5), X - X.mean(axis=-1, keepdims=True)
    spelled = norm.decompose(X, b)  # type: ignore[attr-defined]
    yield Case("fuse_layer_normalization", spelled, apply(norm, X, b))
    yield Case("fuse_layer_normalization", norm.decompose(X, c(2.0)))  # type: ignore[attr-defined]
    yield Case("fuse_layer_normalization", centred / ((centred * centred).mean(axis=-1, keepdims=True) + X).sqrt() * b)
    yield Case("fuse_normalization_bias", apply(norm, X, b) + VECTOR, apply(norm, X, b, VECTOR))
    yield Case("fuse_normalization_bias", apply(norm, X, b) + 1.0)
    yield Case("fuse_normalization_bias", apply(norm, X, b) + VECTOR, reason="used", also=apply(norm, X, b))
    squared, summed = X * X, op("ReduceSumSquare", X, axes=(-1,), keepdims=1)
    yield Case("fuse_sum_of_squares", squared.sum(axis=-1, keepdims=True), summed)
    yield Case("fuse_sum_of_squares", (X * Y).sum())
    yield Case("fuse_sum_of_squares", (N * N).sum())
    yield Case("fuse_sum_of_squares", squared.sum(), reason="used elsewhere", also=squared)
    soft = ops.softmax(X, 0)
    yield Case("fuse_safe_softmax", ops.where(ops.is_nan(soft), 0.0, soft), ops.safe_softmax(X, 0))
    yield Case("fuse_safe_softmax", ops.where(ops.is_nan(X), 0.0, X))
    yield Case("fuse_safe_softmax", ops.where(ops.is_nan(soft), 1.0, soft))
    yield Case(
        "fuse_safe_softmax", ops.where(ops.is_nan(soft), 0.0, soft), reason="used elsewhere", also=ops.is_nan(soft)
    )
    yield Case("add_bias_first", (X @ W + Y @ V) + b, (X @ W + b) + Y @ V)
    yield Case("add_bias_first", (X @ W + Y) + ROW)
    yield Case("add_bias_first", (CUBE @ W + CUBE) + b)
    yield Case("add_bias_first", (ROW @ W + VECTOR) + b)
    yield Case("add_bias_first", (X @ W + Y) + b, reason="used elsewhere", also=X @ W + Y)
    yield Case("accumulate_product", X @ W + Y, ops.add_matmul(Y, X, W))
    yield Case("accumulate_product", CUBE + CUBE @ W, ops.add_matmul(CUBE, CUBE, W))
    yield Case("accumulate_product", X @ W + b)
    yield Case("accumulate_product", ROW @ W + ROW)
    yield Case("accumulate_product", CUBE + x("batch", "time", "time", name="y") @ CUBE)
    yield Case("accumulate_product", X @ W + Y, reason="used elsewhere", also=X @ W)
    yield Case("fuse_gemm", X @ W + b, op("Gemm", X, W, b))
    yield Case("fuse_gemm", b + X.T.T @ W.T, op("Gemm", X.T, W, b, transA=1, transB=1))
    yield Case("fuse_gemm", op("Transpose", X, perm=(0, 1)) @ W + 1.0, op("Gemm", X.transpose(0, 1), W, c(1.0)))
    yield Case("fuse_gemm", CUBE @ W + b)
    yield Case("fuse_gemm", ROW @ W + b)
    yield Case("fuse_gemm", x(1, 4) @ W + p("c", 3, 4))
    yield Case("fuse_gemm", X @ W + b, reason="used elsewhere", also=X @ W)


def _inside(value: Value) -> Value:
    """Something that ``value`` is made of and that depends on an input."""
    return next(operand for operand in reversed(value.operands) if operand.operands and operand is not X)


def merging() -> Iterator[Case]:
    low, weight = X @ A @ B, A @ B
    scaled = W + A @ B * 2.0
    yield Case("unfuse_product", op("Gemm", X, W, alpha=0.5, transB=1), X @ W.T * 0.5)
    yield Case("unfuse_product", op("Gemm", X, W, b))
    yield Case("unfuse_gemm", op("Gemm", X, W, b, beta=2.0), X @ W + b * 2.0)
    yield Case("unfuse_gemm", op("Gemm", X, W))
    yield Case("merge_bypass", X @ W + low, X @ (W + weight))
    yield Case("merge_bypass", low * 2.0 + X @ W, X @ scaled)
    yield Case("merge_bypass", X @ W + low * VECTOR, X @ (W + weight * VECTOR))
    yield Case("merge_bypass", X @ W + X, X @ (W + eye(4, "float64")))
    yield Case("merge_bypass", X @ W + ops.relu(X @ A) @ B, reason="Relu on the way is not linear")
    yield Case("merge_bypass", X @ W + ops.tanh(X), reason="Tanh on the way is not linear")
    yield Case("merge_bypass", X @ W + (X @ A + p("a", 2)) @ B, reason="Add on the way is not linear")
    yield Case("merge_bypass", X @ W + (X @ A + Y @ A) @ B, reason="depends on Input")
    yield Case("merge_bypass", X @ W + ops.softmax(X), reason="Softmax")
    yield Case("merge_bypass", X @ Y.T @ Y.reshape("batch", 4) + low)
    yield Case("merge_bypass", X @ x(4, 4, name="w") + low, reason="depends on the inputs")
    yield Case("merge_bypass", X @ W + low, reason="ahead of time", fold="one")
    yield Case("merge_bypass", ROW @ W + ROW @ A @ B, reason="no batch axis")
    yield Case("merge_bypass", X @ W + low, reason="used elsewhere", also=X @ W)
    yield Case("merge_bypass", X @ W + Y @ A @ B)
    yield Case("merge_bypass", X @ W + X.T.reshape("batch", 4), reason="Reshape on the way")
    pair = x(4, 6)
    yield Case(
        "merge_bypass", pair @ p("P", 6, 4) + (pair @ p("Q", 6, 16)).reshape(4, 4, 4), reason="more than one axis"
    )
    yield Case("merge_bypass_beside_bias", X @ W + b + low, X @ (W + weight) + b)
    yield Case("merge_bypass_beside_bias", low + (Y + X @ W), X @ (W + weight) + Y)
    yield Case("merge_bypass_beside_bias", X @ W + b + low.abs(), reason="Abs on the way")
    yield Case("merge_bypass_beside_bias", X @ W + b + low, reason="used elsewhere", also=X @ W + b)
    yield Case("merge_bypass_with_bias", X @ W + (low + b), X @ (W + weight) + b)
    yield Case("merge_bypass_with_bias", X @ W + (Y + low), X @ (W + weight) + Y)
    yield Case("merge_bypass_with_bias", X @ W + (b + VECTOR))
    yield Case("merge_bypass_between_biases", (X @ W + b) + (low + VECTOR), X @ (W + weight) + (b + VECTOR))
    yield Case("merge_bypass_between_biases", (X @ W + b) + (Y + VECTOR))
    yield Case("merge_subtracted", X @ W - low, X @ (W - weight))
    yield Case("merge_subtracted", low - X @ W)
    yield Case("merge_subtracted_beside_bias", (b + X @ W) - low, X @ (W - weight) + b)
    yield Case("merge_subtracted_beside_bias", (b - X @ W) - low)
    yield Case("scale_columns", X @ W * VECTOR, X @ (W * VECTOR))
    yield Case("scale_columns", CUBE @ W * VECTOR, CUBE @ (W * VECTOR))
    yield Case("scale_columns", X @ W * ROW)
    yield Case("scale_columns", X @ W * 2.0)
    yield Case("scale_columns", X @ W * VECTOR, fold="one")
    yield Case("scale_columns", X @ W * VECTOR, reason="used elsewhere", also=X @ W)
    yield Case("gather_biases", (X @ W + b) + VECTOR, X @ W + (b + VECTOR))
    yield Case("gather_biases", (X @ W + b) + Y)
    yield Case("gather_biases", (X @ W + b) + VECTOR, fold="one")
    yield Case("gather_biases", (VECTOR @ W + b @ V) + p("c", 4))
    yield Case("drop_stop_gradient", ops.stop_gradient(X), X, exact=True)
    yield Case("drop_stop_gradient", X * X)
    yield Case("identity_times", eye(4, "float64") @ A, A)
    yield Case("identity_times", op("EyeLike", p("E", 4, 4), dtype=np.dtype("float64")) @ A, A)
    yield Case("identity_times", op("EyeLike", p("E", 3, 4), dtype=np.dtype("float64")) @ A)
    yield Case("identity_times", A.T @ eye(4, "float64"))


def convolutions() -> Iterator[Case]:
    image, other = x("batch", 4, "time", 6, name="image"), x("batch", 4, "time", 6, name="other")
    kernel, first, second = p("K", 6, 4, 3, 3), p("F", 2, 4, 3, 3), p("S", 6, 2, 1, 1)
    bias, gain, around = p("bias", 6), p("gain", 6, 1, 1), {"pads": 1}
    base = ops.conv(image, kernel, **around)
    biased = ops.conv(image, kernel, bias, **around)
    low = ops.conv(ops.conv(image, first, **around), second)
    joint = (second.reshape(1, 6, 2) @ first.reshape(1, 2, 36)).reshape(6, 4, 3, 3)

    def merged(new: Value, *rest: Value) -> Value:
        return ops.conv(image, new, *rest, **around)  # type: ignore[no-any-return]

    yield Case("scale_kernel", base * 2.0, merged(kernel * 2.0), fold="none")
    yield Case("scale_kernel", base * gain, merged(kernel * gain.reshape(6, 1, 1, 1)))
    yield Case("scale_kernel", base * p("each", 6, 1, 6))
    yield Case("scale_kernel", ops.conv(x(1, 4, 3, 3), p("K", 6, 4, 3, 3)) * 2.0)
    yield Case("merge_convolution", base + low, merged(kernel + joint))
    yield Case("merge_convolution", low * 0.5 + base, merged(kernel + joint * 0.5))
    yield Case("merge_convolution", base + low * gain, merged(kernel + joint * gain.reshape(6, 1, 1, 1)))
    yield Case("merge_convolution", base + (low - low * 0.5), merged(kernel + (joint - joint * 0.5)))
    yield Case("merge_convolution", base + -low, merged(kernel + -joint))
    deep = ops.conv(image, p("D", 6, 2, 3, 3), pads=2, strides=2, dilations=2, group=2)
    pair = ops.conv(image, p("F", 4, 2, 3, 3), pads=2, strides=2, dilations=2, group=2)
    grouped = (p("S", 6, 2, 1, 1).reshape(2, 3, 2) @ p("F", 4, 2, 3, 3).reshape(2, 2, 18)).reshape(6, 2, 3, 3)
    yield Case(
        "merge_convolution",
        deep + ops.conv(pair, p("S", 6, 2, 1, 1), group=2),
        ops.conv(image, p("D", 6, 2, 3, 3) + grouped, pads=2, strides=2, dilations=2, group=2),
    )
    yield Case("merge_convolution", deep + ops.conv(pair, p("T", 6, 4, 1, 1)), reason="goes on with a convolution by")
    yield Case("merge_convolution", base + ops.conv(image, p("P", 6, 4, 1, 1)), reason="the bypass is a convolution by")
    yield Case("merge_convolution", base + ops.relu(low), reason="Relu on the way is not linear")
    yield Case("merge_convolution", base + ops.conv(ops.relu(image), kernel, **around), reason="Relu on the way")
    yield Case("merge_convolution", base + ops.conv(other, kernel, **around))
    yield Case("merge_convolution", base + low, reason="ahead of time", fold="one")
    yield Case("merge_convolution", base + low, reason="used elsewhere", also=base)
    yield Case(
        "merge_convolution", ops.conv(image, x(6, 4, 3, 3, name="w"), pads=1) + low, reason="depends on the inputs"
    )
    yield Case("merge_convolution_with_bias", biased + low, merged(kernel + joint, bias))
    yield Case("merge_convolution_with_bias", biased + ops.tanh(low), reason="Tanh on the way")
    yield Case("merge_subtracted_convolution", base - low, merged(kernel - joint))
    yield Case("merge_subtracted_convolution", low - ops.conv(other, kernel, **around))
    yield Case("merge_subtracted_convolution_with_bias", biased - low, merged(kernel - joint, bias))
    yield Case("merge_subtracted_convolution_with_bias", biased - ops.conv(other, kernel, **around))
    shift = p("shift", 6, 1, 1)
    shifting = ops.conv(ops.conv(image, first, **around), second, bias)
    yield Case("merge_convolution", base + shifting, merged(kernel + joint) + bias.reshape(6, 1, 1))
    yield Case("merge_convolution_with_bias", biased + shifting, merged(kernel + joint, bias) + bias.reshape(6, 1, 1))
    yield Case("merge_convolution", base + ops.conv(ops.tanh(low), p("O", 6, 6, 1, 1), bias), reason="Tanh on the way")
    yield Case("bias_of_convolution", base + shift, merged(kernel, shift.reshape(6)))
    yield Case("bias_of_convolution", base + p("each", 6, 1, 6))
    yield Case("bias_of_convolution", base + shift, reason="used elsewhere", also=base)
    yield Case("add_to_bias_of_convolution", biased + shift, merged(kernel, bias + shift.reshape(6)))
    yield Case("add_to_bias_of_convolution", biased + shift, fold="one")
    yield Case("add_to_bias_of_convolution", biased + x(6, 1, 1, name="s"))
    pointwise, middle = p("Q", 2, 4, 1, 1), p("M", 2, 2, 3, 3)
    cored = ops.conv(ops.conv(ops.conv(image, pointwise), middle, **around), second)
    core = middle.reshape(2, 2, 9).transpose(0, 2, 1).reshape(1, 18, 2) @ pointwise.reshape(1, 2, 4)
    inner = core.reshape(2, 9, 4).transpose(0, 2, 1).reshape(2, 4, 3, 3)
    tucker = (second.reshape(1, 6, 2) @ inner.reshape(1, 2, 36)).reshape(6, 4, 3, 3)
    yield Case("merge_convolution", base + cored, merged(kernel + tucker))
    yield Case("add_before_reshape", X.reshape(-1, 2) + Y.reshape(-1, 2), (X + Y).reshape(-1, 2))
    yield Case("add_before_reshape", X.reshape("batch", 2, 2) + x("batch", 1, 4, name="z").reshape("batch", 2, 2))


def loops() -> Iterator[Case]:
    def block(v: Value, before: int, after: int) -> Value:
        return ops.pad(v, (0, before), (0, after))

    first, second, third = (x("batch", n, name=name) for n, name in ((1, "f"), (2, "s"), (3, "t")))
    both = ops.concat([first, second], 1)
    yield Case("join_padded", block(first, 0, 2) + block(second, 1, 0), both, exact=True)
    yield Case("join_padded", block(second, 2, 0) + block(first, 1, 2), block(both, 1, 0), exact=True)
    joined = ops.concat([first, second, third], 1)
    yield Case("join_padded", block(both, 0, 3) + block(third, 3, 0), joined, exact=True)
    yield Case("join_padded", block(first, 0, 3) + block(second, 2, 0))
    yield Case("join_padded", block(second, 0, 1) + block(second, 1, 0))
    yield Case("join_padded", ops.pad(first, (1, 0), (0, 1)) + ops.pad(first, (0, 1), (1, 0)))
    yield Case("join_padded", block(x(1, 1, name="o"), 0, 2) + ops.pad(x(1, name="v"), [1], [1]))
    yield Case("join_padded", block(first, 1, -1) + block(second, -1, 0))
    yield Case("join_padded", op("Pad", first, c(1.0), pads=(0, 0, 0, 2)) + block(second, 1, 0))
    yield Case("join_padded", op("Pad", first, pads=(0, 0, 0, 2), mode="edge") + block(second, 1, 0))
    yield Case("join_padded", block(first, 0, 2) + block(second, 1, 0), reason="used", also=block(first, 0, 2))
    rest = x("batch", 3, name="u")
    yield Case("join_padded_in_sum", rest + block(first, 0, 2) + block(second, 1, 0), rest + both, exact=True)
    yield Case("join_padded_in_sum", rest + block(first, 0, 2) + block(first, 2, 0))
    yield Case("join_padded_in_sum", x(3, name="line") + block(first, 0, 2) + block(second, 1, 0), exact=True)
    yield Case("join_padded_in_sum", x("batch", 1, name="r") + block(first, 0, 2) + block(second, 1, 0))
    walked = (x("time", "batch", 4, name="xs"), p("W", 1, 6, 4), p("R", 1, 6, 2), p("B", 1, 12))
    for index, result in enumerate(ops.gru(*walked)):
        yield Case("spell_recurrent", result, result.operands[0].op.decompose(*walked)[index])  # type: ignore[attr-defined]
    yield Case("spell_recurrent", ops.scan(lambda h, xt: ([h + xt], []), [X], [x("time", "batch", 4, name="xs")])[0][0])


def lookups() -> Iterator[Case]:
    ids, others = x("batch", "time", name="ids", dtype="int64"), x("batch", "time", name="others", dtype="int64")
    table, rows = p("T", 5, 4), p("R", 5, 2)
    low = ops.gather(rows, ids, 0) @ B
    found = ops.gather(table, ids, 0)
    again = p("S", 5, 4).reshape(1, 5, 4).reshape(5, 4)
    change = (rows.reshape(1, 5, 2) @ B).reshape(5, 4)
    yield Case("merge_lookup", found + low, ops.gather(table + change, ids, 0))
    yield Case(
        "merge_lookup", low * 2.0 + found, ops.gather(table + (rows.reshape(1, 5, 2) @ B * 2.0).reshape(5, 4), ids, 0)
    )
    yield Case("merge_lookup", found + ops.gather(p("S", 5, 4), ids, 0), ops.gather(table + again, ids, 0))
    yield Case("merge_lookup", found + ops.gather(rows, others, 0) @ B)
    yield Case("merge_lookup", found + low.tanh())
    yield Case("merge_lookup", found + ops.gather(p("U", 6, 2), ids, 0) @ B)
    yield Case("merge_lookup", found + low, reason="ahead of time", fold="one")
    yield Case("merge_lookup", found + low, reason="used elsewhere", also=found)
    yield Case("scale_table", found * VECTOR, ops.gather(table * VECTOR, ids, 0))
    yield Case("scale_table", found * 2.0)
    yield Case("scale_table", found * VECTOR, fold="one")


def _numbered(cases: Iterator[Case]) -> Iterator[Case]:
    seen: Counter[str] = Counter()
    for case in cases:
        yield replace(case, number=seen[case.rule])
        seen[case.rule] += 1


KINDS = (identities, layout, products, fused, merging, convolutions, loops, lookups)
CASES = list(_numbered(item for kind in KINDS for item in kind()))
