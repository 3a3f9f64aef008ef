"""ONNX ops for which the IR has other words: each is read as the Values it stands for."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from itertools import accumulate, pairwise
from typing import Any, Protocol

import numpy as np

from lora_graph.ir import dims, leaves
from lora_graph.ir.dims import Dim
from lora_graph.ir.op import NodeView
from lora_graph.ir.types import Array
from lora_graph.ir.value import Value, apply
from lora_graph.onnx.attention import read_attention
from lora_graph.onnx.symbolic import vector
from lora_graph.ops.cumulative import arange
from lora_graph.ops.gather import gather_nd
from lora_graph.ops.pooling import AveragePool
from lora_graph.ops.shape import expand
from lora_graph.ops.slice import concat, slice_axis
from lora_graph.ops.stop_gradient import STOPS, stop_gradient


class View(NodeView, Protocol):
    """What these readers need beyond an op's own view of its node."""

    results: int

    def tensor(self, attribute: str) -> Array:
        """A tensor attribute as an array."""

    def leaf(self, array: Array) -> Value:
        """``array`` as a Constant, or as a Parameter called like the result if it is large."""


def read_constant(node: View) -> Value:
    (name,) = node.attributes
    match name:
        case "value":
            return node.leaf(node.tensor(name))
        case "value_float" | "value_floats":
            return node.leaf(np.asarray(node.attributes[name], np.float32))
        case "value_int" | "value_ints":
            return node.leaf(np.asarray(node.attributes[name], np.int64))
    raise ValueError(f"a constant given as {name} is not supported")


def read_identity(node: View) -> Value:
    x = _operand(node)
    return stop_gradient(x) if node.noted(STOPS) else x


def read_shape(node: View) -> Value:
    shape = _operand(node).shape
    return vector(shape[node.attributes.get("start", 0) : node.attributes.get("end", len(shape))])


def read_size(node: View) -> Value:
    return leaves.size_of(_operand(node).type.size)


def read_constant_of_shape(node: View) -> Value:
    shape = node.static_shape(0)
    if shape is None:
        raise ValueError("the shape has to be known or computed from dimensions")
    value = node.tensor("value") if "value" in node.attributes else np.zeros(1, np.float32)
    return expand(leaves.constant(value.reshape(())), shape)


def read_dropout(node: View) -> tuple[Value, Value]:
    """In training mode nothing is drawn either where the ratio is 0."""
    x, training, ratio = _operand(node), node.static(2), node.static(1)
    given = len(node.operands) > 2 and node.operands[2] is not None
    if given and (training is None or training.any()) and (ratio is None or ratio.any()):
        raise ValueError("a dropout in training mode draws random numbers itself, which no pure function can")
    for unused in ("seed", "ratio"):
        node.attributes.get(unused)
    kept = expand(leaves.constant(1, x.dtype if node.opset < 10 else np.bool_), x.shape)
    return x, kept


def read_sum(node: View) -> Value:
    return reduce(lambda a, b: a + b, (_operand(node, i) for i in range(len(node.operands))))


def read_mean(node: View) -> Value:
    return read_sum(node) / float(len(node.operands))


def read_cast_like(node: View) -> Value:
    return _operand(node).astype(_operand(node, 1).dtype)


def read_split(node: View) -> tuple[Value, ...]:
    x, given = _operand(node), node.attributes.get("split") or node.static_shape(1)
    axis = range(x.rank)[node.attributes.get("axis", 0)]
    count = node.attributes.get("num_outputs", node.results)
    sizes: list[Dim] = list(given) if given is not None else _equal_parts(x.shape[axis], count)
    if len(sizes) != node.results or sum(sizes[1:], sizes[0]) != x.shape[axis]:
        raise ValueError(f"sizes {sizes} do not split axis {axis} of {x.type} in {node.results}")
    ends = accumulate(sizes, initial=dims.dim(0))
    return tuple(slice_axis(x, axis, start, end) for start, end in pairwise(ends))


def read_range(node: View) -> Value:
    """start + i · step for i from 0 up to a length that is a dimension."""
    known = [array for array in map(node.static, range(3)) if array is not None]
    if len(known) == 3:
        return node.leaf(np.arange(*[array.item() for array in known], dtype=known[0].dtype))
    bounds = [bound for bound in map(node.static_shape, range(3)) if bound is not None]
    if len(bounds) != 3:
        raise ValueError("start, limit and delta have to be known or computed from dimensions")
    (first,), (last,), (by,) = bounds
    if not isinstance(by, int) or by <= 0:
        raise ValueError(f"a range that ends at a named dimension needs a positive delta, got {by}")
    count = dims.maximum((last - first + (by - 1)) // by, 0)
    counted: Value = arange(count, _operand(node).dtype) * by + first
    return counted


def read_tile(node: View) -> Value:
    """The axes of x, each behind a new one along which it is repeated."""
    x, repeats = _operand(node), node.static_shape(1)
    if repeats is None:
        raise ValueError("the repeats have to be known or computed from dimensions")
    sizes = list(zip(repeats, x.shape, strict=True))
    apart = x.reshape([size for _, length in sizes for size in (1, length)])
    return expand(apart, [size for pair in sizes for size in pair]).reshape([n * length for n, length in sizes])


def read_gather_nd(node: View) -> Value:
    """The leading ``batch_dims`` axes that data and indices share become the first part of the multi-index."""
    data, indices, batch = _operand(node), _operand(node, 1), node.attributes.get("batch_dims", 0)
    lead = indices.shape[:-1]
    own = [
        expand(arange(lead[axis]).reshape([-1 if i == axis else 1 for i in range(len(lead) + 1)]), (*lead, 1))
        for axis in range(batch)
    ]
    picked: Value = gather_nd(data, concat([*own, indices.astype(np.int64)], -1) if own else indices)
    return picked


def read_lrn(node: View) -> Value:
    """x / (bias + alpha · mean)^beta, mean of x² over ``size`` neighbouring channels (Krizhevsky et al., 2012)."""
    x, a = _operand(node), node.attributes
    size = a["size"]
    columns = (x * x).reshape(x.shape[0], 1, x.shape[1], dims.product(x.shape[2:]))
    before = (size - 1) // 2
    pool = AveragePool((size, 1), (1, 1), (before, 0, size - 1 - before, 0), count_include_pad=1)
    mean: Value = apply(pool, columns).reshape(x.shape)
    y: Value = x / (mean * a.get("alpha", 1e-4) + a.get("bias", 1.0)) ** a.get("beta", 0.75)
    return y


def _equal_parts(size: Dim, count: int) -> list[Dim]:
    """``count`` equal parts, the last one smaller where ``size`` is no multiple (opset 18)."""
    if isinstance(size, int):
        part = -(-size // count)
        return [*[part] * (count - 1), size - part * (count - 1)]
    exact = dims.exact_quotient(size, count)
    if exact is None:
        raise ValueError(f"cannot split a dimension {size} in {count} equal parts")
    return [exact] * count


def _operand(node: View, index: int = 0) -> Value:
    operand = node.operands[index]
    if operand is None:
        raise ValueError(f"operand {index} is missing")
    return operand


READERS: dict[str, Callable[[Any], Value | tuple[Value, ...]]] = {
    "Attention": read_attention,
    "Constant": read_constant,
    "Identity": read_identity,
    "Shape": read_shape,
    "Size": read_size,
    "ConstantOfShape": read_constant_of_shape,
    "Dropout": read_dropout,
    "Sum": read_sum,
    "Mean": read_mean,
    "CastLike": read_cast_like,
    "Split": read_split,
    "Range": read_range,
    "Tile": read_tile,
    "GatherND": read_gather_nd,
    "LRN": read_lrn,
}
