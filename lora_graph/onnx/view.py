"""A node of a model as ops see it while they are read, and what ONNX's own schemas say about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import onnx

from lora_graph.ir.dims import Shape
from lora_graph.ir.leaves import CONSTANT_LIMIT, Constant, Parameter, constant, parameter
from lora_graph.ir.types import Array
from lora_graph.ir.value import Value
from lora_graph.onnx.attributes import read_attributes, read_notes
from lora_graph.onnx.kernels import schema
from lora_graph.onnx.source import DEFAULT_DOMAINS, Opened
from lora_graph.onnx.symbolic import Contents
from lora_graph.onnx.tensors import dtype_of, read_tensor


@dataclass
class Known:
    """What is known so far of a model that is being read: Values and arrays by name."""

    opened: Opened
    values: dict[str, Value] = field(default_factory=dict)
    arrays: dict[str, Array] = field(default_factory=dict)
    contents: Contents = field(default_factory=Contents)

    def leaf(self, name: str, array: Array, trainable: bool) -> Value:
        """``array`` as a Constant, or as the Parameter ``name`` if it is trainable or large."""
        if array.nbytes <= CONSTANT_LIMIT and not trainable:
            return constant(array)
        self.arrays[name] = array
        return parameter(name, array.dtype, array.shape, trainable)


class Attributes(dict[str, Any]):
    """Attributes that remember which of them were asked for."""

    def __init__(self, attributes: Mapping[str, Any]) -> None:
        super().__init__(attributes)
        self.read: set[str] = set()

    def __getitem__(self, name: str) -> Any:
        self.read.add(name)
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        self.read.add(name)
        return super().get(name, default)


class NodeReader:
    """One node as ops see it while they are read (the NodeView of ``ir/op.py``)."""

    def __init__(self, known: Known, node: onnx.NodeProto) -> None:
        self.node = node
        self.opset = known.opened.opset
        self.attributes = Attributes(read_attributes(node))
        self._noted = read_notes(node)
        self.operands = [known.values[name] if name else None for name in node.input]
        self.results = len(node.output)
        self._known = known

    def static(self, index: int) -> Array | None:
        operand = self.operands[index] if index < len(self.operands) else None
        if operand is None:
            return None
        if isinstance(operand.op, Constant):
            return operand.op.value
        if isinstance(operand.op, Parameter):
            return self._known.arrays[operand.op.label]
        shape = self.static_shape(index)
        if shape is None or not all(isinstance(size, int) for size in shape):
            return None
        return np.asarray(shape[0] if operand.rank == 0 else shape, operand.dtype)

    def static_shape(self, index: int) -> Shape | None:
        operand = self.operands[index] if index < len(self.operands) else None
        if operand is None:
            return None
        if isinstance(operand.op, Parameter) and operand.rank == 1 and operand.dtype == np.int64:
            return tuple(map(int, self._known.arrays[operand.op.label]))
        return self._known.contents.dimensions(operand)

    def dtype(self, attribute: str) -> np.dtype[Any]:
        return dtype_of(self.attributes[attribute])

    def noted(self, name: str) -> Any:
        return self._noted.get(name)

    def tensor(self, attribute: str) -> Array:
        opened = self._known.opened
        return read_tensor(self.attributes[attribute], opened.folder, opened.label)

    def leaf(self, array: Array) -> Value:
        return self._known.leaf(self.node.output[0], array, trainable=False)


def check_node(node: onnx.NodeProto, opset: int) -> None:
    """Raise unless the op exists at ``opset`` and the node has the operands and attributes that ONNX says it takes."""
    known = schema(node.op_type, opset) if node.domain in DEFAULT_DOMAINS else None
    if known is None:
        raise ValueError(f"this op is not supported at opset {opset}")
    required = onnx.defs.OpSchema.FormalParameterOption.Single
    for formal, name in zip(known.inputs, node.input, strict=False):
        if not name and formal.option == required:
            raise ValueError(f"operand {formal.name!r} is missing")
    onnx.checker.check_node(node, _context(opset))


def check_attributes(node: onnx.NodeProto, attributes: Attributes, opset: int) -> None:
    """Raise for an attribute that nobody looked at, unless it says what holds anyway."""
    declared = schema(node.op_type, opset).attributes
    for attribute in node.attribute:
        default = declared[attribute.name].default_value
        if attribute.name not in attributes.read and (
            onnx.helper.get_attribute_value(default) != onnx.helper.get_attribute_value(attribute)
        ):
            raise ValueError(f"the attribute {attribute.name}={attributes[attribute.name]!r} is not supported")


@cache
def _context(opset: int) -> Any:
    context = onnx.checker.C.CheckerContext()
    context.ir_version = onnx.IR_VERSION
    context.opset_imports = {"": opset}
    return context
