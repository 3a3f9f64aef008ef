"""A convolution is linear in its kernel, so what is done to its result can be done to the kernel.

    x ∗ W + d(x)  →  x ∗ (W + K)      where d convolves x as W does, and K is its kernel

The bypass may be a chain: a convolution in the geometry of W, pointwise ones in as many groups, scales, sums.
"""

from __future__ import annotations

from collections.abc import Callable

from lora_graph.ir import dims
from lora_graph.ir.value import Value, apply
from lora_graph.ops.arithmetic import Add, Mul, Sub
from lora_graph.ops.convolution import Conv
from lora_graph.ops.shape import Reshape
from lora_graph.ops.unary import Neg
from lora_graph.rewrite import cost
from lora_graph.rewrite.merge import MAX_BYPASS, obstacle
from lora_graph.rewrite.pattern import any_op
from lora_graph.rewrite.rule import Facts, Outcome, Refusal, rule


@rule(lambda x, w, s: any_op(Mul, any_op(Conv, x, w, name="conv"), s))
def scale_kernel(facts: Facts, x: Value, w: Value, s: Value, conv: Value) -> Outcome:
    """(x ∗ w) s → x ∗ (w s) for a scalar s, or one for each channel, where the kernel has fewer elements"""
    by_channel = _by_channel(s, w.rank)
    if by_channel is None or cost.size(w.type) > cost.size(conv.type):
        return None
    return apply(conv.op, x, w * by_channel)


@rule(lambda x, w, d: any_op(Add, any_op(Conv, x, w, name="conv"), d))
def merge_convolution(facts: Facts, x: Value, w: Value, d: Value, conv: Value) -> Outcome:
    """x ∗ w + d(x) → x ∗ (w + K)"""
    return _merged(facts, conv, d, lambda kernel: apply(conv.op, x, w + kernel))


@rule(lambda x, w, b, d: any_op(Add, any_op(Conv, x, w, b, name="conv"), d))
def merge_convolution_with_bias(facts: Facts, x: Value, w: Value, b: Value, d: Value, conv: Value) -> Outcome:
    """(x ∗ w + b) + d(x) → x ∗ (w + K) + b"""
    return _merged(facts, conv, d, lambda kernel: apply(conv.op, x, w + kernel, b))


@rule(lambda x, w, d: any_op(Sub, any_op(Conv, x, w, name="conv"), d))
def merge_subtracted_convolution(facts: Facts, x: Value, w: Value, d: Value, conv: Value) -> Outcome:
    """x ∗ w - d(x) → x ∗ (w - K)"""
    return _merged(facts, conv, d, lambda kernel: apply(conv.op, x, w - kernel))


@rule(lambda x, w, b, d: any_op(Sub, any_op(Conv, x, w, b, name="conv"), d))
def merge_subtracted_convolution_with_bias(
    facts: Facts, x: Value, w: Value, b: Value, d: Value, conv: Value
) -> Outcome:
    """(x ∗ w + b) - d(x) → x ∗ (w - K) + b"""
    return _merged(facts, conv, d, lambda kernel: apply(conv.op, x, w - kernel, b))


@rule(lambda x, w, c: any_op(Add, any_op(Conv, x, w, name="conv"), c))
def bias_of_convolution(facts: Facts, x: Value, w: Value, c: Value, conv: Value) -> Outcome:
    """x ∗ w + c → Conv(x, w, c) for one number for each channel"""
    bias = _bias(facts, c, conv)
    return None if bias is None else apply(conv.op, x, w, bias)


@rule(lambda x, w, b, c: any_op(Add, any_op(Conv, x, w, b, name="conv"), c))
def add_to_bias_of_convolution(facts: Facts, x: Value, w: Value, b: Value, c: Value, conv: Value) -> Outcome:
    """(x ∗ w + b) + c → x ∗ w + (b + c) for one number for each channel"""
    bias = _bias(facts, c, conv)
    return None if bias is None or not facts.is_foldable(b, bias) else apply(conv.op, x, w, b + bias)


@rule(lambda a, b: any_op(Add, any_op(Reshape, a, name="first"), any_op(Reshape, b)))
def add_before_reshape(facts: Facts, a: Value, b: Value, first: Value) -> Outcome:
    """reshape(a) + reshape(b) → reshape(a + b), so that a bypass meets its base before batch axes are unfolded"""
    return (a + b).reshape(first.shape) if a.shape == b.shape else None


def _merged(facts: Facts, conv: Value, d: Value, build: Callable[[Value], Value]) -> Outcome:
    """What ``build`` makes of the kernel of ``d``, if that is a foldable bypass of ``conv``; its bias stays beside."""
    x, w = conv.operands[:2]
    if facts.is_static(d) or facts.is_static(x) or d.type != conv.type:
        return None
    if isinstance(d.op, Conv) and len(d.operands) == 3:
        merged = _merged(facts, conv, apply(d.op, *d.operands[:2]), build)
        column = d.operands[2].reshape((-1, *(1,) * (d.rank - 2)))
        return merged + column if isinstance(merged, Value) else merged
    kernel = _kernel(facts, d, x, conv)
    if not isinstance(kernel, Value):
        return kernel
    if not facts.is_static(w):
        return Refusal(f"the kernel {w.type} that the bypass stands beside depends on the inputs")
    if not facts.is_foldable(w, kernel):
        return Refusal("the merged kernel may not be computed ahead of time here")
    return build(kernel)


def _kernel(facts: Facts, d: Value, x: Value, conv: Value, left: int = MAX_BYPASS) -> Value | Refusal | None:
    """K with d = x ∗ K in the geometry of ``conv``.

    None where d has nothing to do with x; a Refusal where it depends on x in another way.
    """
    if not left:
        return None
    match d.op, d.operands:
        case Conv(), (source, w) if source is x:
            if d.op == conv.op and w.shape[2:] == conv.operands[1].shape[2:]:
                return w
            return Refusal(f"the bypass is {_described(d)}, not {_described(conv)}")
        case Conv() as op, (Value(op=Conv() as first, operands=(source, a)) as mixed, w) if (
            source is x
            and op == conv.op
            and w.shape[2:] == conv.operands[1].shape[2:]
            and _is_pointwise(mixed)
            and first.group == op.group
            and not _is_pointwise(d)
        ):
            return preceded(w, a, op.group)
        case Conv() as op, (source, b):
            inner = _kernel(facts, source, x, conv, left - 1)
            if not isinstance(inner, Value):
                return inner
            if _is_pointwise(d) and op.group == conv.op.attributes()["group"]:
                return composed(inner, b, op.group)
            return Refusal(f"the bypass goes on with {_described(d)}, which no kernel of its size stands for")
        case Mul(), (a, b):
            source, s = (a, b) if facts.is_static(b) else (b, a)
            scale = _by_channel(s, x.rank) if facts.is_static(s) else None
            if scale is not None:
                inner = _kernel(facts, source, x, conv, left - 1)
                return inner * scale if isinstance(inner, Value) else inner
        case Neg(), (source,):
            inner = _kernel(facts, source, x, conv, left - 1)
            return -inner if isinstance(inner, Value) else inner
        case ((Add() | Sub()), (a, b)):
            both = [_kernel(facts, part, x, conv, left // 2) for part in (a, b)]
            if isinstance(both[0], Value) and isinstance(both[1], Value):
                joined: Value = apply(d.op, *both)
                return joined
            return next((part for part in both if isinstance(part, Refusal)), None)
    return obstacle(d, x, [])


def composed(a: Value, b: Value, groups: int) -> Value:
    """The kernel of x ∗ a ∗ b for a pointwise b in as many groups: in each, B A with the window as one axis."""
    middle, out = a.shape[0] // groups, b.shape[0] // groups
    product = b.reshape((groups, out, middle)) @ a.reshape((groups, middle, dims.product(a.shape[1:])))
    return product.reshape((b.shape[0], *a.shape[1:]))


def preceded(w: Value, a: Value, groups: int) -> Value:
    """The kernel of x ∗ a ∗ w for a pointwise a in as many groups: in each, W A for every place of the window."""
    middle, inner, window = w.shape[1], a.shape[1], dims.product(w.shape[2:])
    product = w.reshape((w.shape[0], middle, window)).transpose((0, 2, 1)).reshape((groups, -1, middle))
    mixed = (product @ a.reshape((groups, middle, inner))).reshape((w.shape[0], window, inner))
    return mixed.transpose((0, 2, 1)).reshape((w.shape[0], inner, *w.shape[2:]))


def _is_pointwise(conv: Value) -> bool:
    """Whether a convolution mixes channels alone."""
    assert isinstance(conv.op, Conv)
    return {*conv.operands[1].shape[2:], *conv.op.strides} == {1} and set(conv.op.pads) == {0}


def _by_channel(s: Value, rank: int) -> Value | None:
    """``s`` in a shape that scales the rows of a kernel, if it is a scalar or one number for each channel."""
    if not s.shape:
        return s
    channels = s.shape[1 - rank] if s.rank in (rank - 1, rank) else 1
    return s.reshape((channels, *(1,) * (rank - 1))) if s.type.size == channels else None


def _bias(facts: Facts, c: Value, conv: Value) -> Value | None:
    """``c`` as a bias of ``conv``, if it is static, and one number for each channel."""
    channels = conv.operands[1].shape[0]
    shape = (channels, *(1,) * (conv.rank - 2))
    if not facts.is_static(c) or c.type.size != channels or c.shape not in (shape, (1, *shape)):
        return None
    return c.reshape((channels,))


def _described(conv: Value) -> str:
    numbers = ", ".join(f"{name} {value}" for name, value in conv.op.attributes().items())
    return f"a convolution by {conv.operands[1].type} with {numbers}"


MERGE_CONVOLUTIONS = [
    merge_convolution,
    merge_convolution_with_bias,
    merge_subtracted_convolution,
    merge_subtracted_convolution_with_bias,
    bias_of_convolution,
    add_to_bias_of_convolution,
    add_before_reshape,
]
