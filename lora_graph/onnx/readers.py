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
from lora_graph.ir.value import Value
from lora_graph.onnx.symbolic import vector
from lora_graph.ops.shape import expand
from lora_graph.ops.slice import slice_axis


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
    return _operand(node)


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


def read_dropout(node: View) -> Value:
    training = node.static(2)
    if len(node.operands) > 2 and node.operands[2] is not None and (training is None or training.any()):
        raise ValueError("a dropout in training mode draws random numbers itself, which no pure function can")
    node.attributes.get("seed")
    return _operand(node)


def read_sum(node: View) -> Value:
    return reduce(lambda a, b: a + b, (_operand(node, i) for i in range(len(node.operands))))


def read_mean(node: View) -> Value:
    return read_sum(node) / float(len(node.operands))


def read_cast_like(node: View) -> Value:
    return _operand(node).astype(_operand(node, 1).dtype)


def read_split(node: View) -> tuple[Value, ...]:
    x, given = _operand(node), node.static_shape(1)
    axis = range(x.rank)[node.attributes.get("axis", 0)]
    count = node.attributes.get("num_outputs", node.results)
    sizes: list[Dim] = list(given) if given is not None else _equal_parts(x.shape[axis], count)
    if len(sizes) != node.results or sum(sizes[1:], sizes[0]) != x.shape[axis]:
        raise ValueError(f"sizes {sizes} do not split axis {axis} of {x.type} in {node.results}")
    ends = accumulate(sizes, initial=dims.dim(0))
    return tuple(slice_axis(x, axis, start, end) for start, end in pairwise(ends))


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
}
