"""Attributes of nodes: from the fields of an op to ONNX and back."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

VERSION, PARAMETERS = "lora_graph.version", "lora_graph.parameters"
"""Model metadata: the version that wrote it, and which Parameters are trainable."""

DIMENSION = "lora_graph.dimension"
"""Node metadata: the dimension that a node helps to compute."""

NOTED = "lora_graph.exact."
"""Prefix of node metadata that tells what ONNX has no room for, such as digits of a float."""

NOTE_LENGTH = 200


def lowered_attributes(attributes: Mapping[str, Any]) -> tuple[list[ir.Attr], dict[str, str]]:
    """``attributes`` without Nones as ONNX's, and node metadata with the numbers that float32 does not give back."""
    written = [_lowered(name, value) for name, value in attributes.items() if value is not None]
    exact = {
        NOTED + name: repr(value)
        for name, value in attributes.items()
        if isinstance(value, float) and value == value and shortest(value) != value
    }
    return written, exact


def _lowered(name: str, value: Any) -> ir.Attr:
    match value:
        case bool() | int():
            return ir.AttrInt64(name, int(value))
        case float():
            return ir.AttrFloat32(name, value)
        case str():
            return ir.AttrString(name, value)
        case np.dtype():
            return ir.AttrInt64(name, int(ir.DataType.from_numpy(value)))
        case tuple() if any(isinstance(item, float) for item in value):
            return ir.AttrFloat32s(name, value)
        case tuple() if value and all(isinstance(item, str) for item in value):
            return ir.AttrStrings(name, value)
        case tuple() if all(isinstance(item, int) for item in value):
            return ir.AttrInt64s(name, value)
        case np.ndarray():
            return ir.AttrTensor(name, ir.Tensor(value))
        case ir.Graph():
            return ir.AttrGraph(name, value)
    raise TypeError(f"attribute {name} cannot be written to ONNX: {value!r}")


def read_attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """The attributes of ``node`` as Python numbers, strings, tuples and protos.

    A float is the shortest decimal number that rounds to it in float32, or the number that was exported.
    """
    noted = read_notes(node)
    read = {}
    for attribute in node.attribute:
        value = onnx.helper.get_attribute_value(attribute)
        if attribute.type == onnx.AttributeProto.FLOAT:
            value = _exact(noted.get(attribute.name), value)
        elif attribute.type == onnx.AttributeProto.FLOATS:
            value = tuple(map(shortest, value))
        elif attribute.type == onnx.AttributeProto.STRING:
            value = value.decode()
        elif attribute.type == onnx.AttributeProto.STRINGS:
            value = tuple(item.decode() for item in value)
        elif attribute.type == onnx.AttributeProto.INTS:
            value = tuple(value)
        read[attribute.name] = value
    return read


def read_notes(node: onnx.NodeProto) -> dict[str, Any]:
    """Numbers, tuples of numbers and names that the exporter noted with ``node``; ValueError for anything else."""
    notes = {}
    for prop in node.metadata_props:
        if prop.key.startswith(NOTED):
            if len(prop.value) > NOTE_LENGTH:
                raise ValueError(f"the metadata {prop.key} has {len(prop.value)} characters")
            notes[prop.key[len(NOTED) :]] = _noted(prop.key, prop.value)
    return notes


def _noted(key: str, text: str) -> Any:
    try:
        value = float(text) if text in ("inf", "-inf") else ast.literal_eval(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"the metadata {key} cannot be read: {text!r}") from error
    items = value if isinstance(value, tuple) else (value,)
    is_name = isinstance(value, str) and value.isidentifier()
    if not is_name and not all(type(item) in (int, float) for item in items):
        raise ValueError(f"the metadata {key} must be a number, a tuple of numbers or a name, got {text!r}")
    return value


def _exact(noted: Any, value: float) -> float:
    return noted if isinstance(noted, float) and np.float32(noted) == np.float32(value) else shortest(value)


def shortest(value: float) -> float:
    return float(str(np.float32(value)))
