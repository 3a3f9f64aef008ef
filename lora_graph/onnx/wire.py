"""Models as protobuf messages, written piece by piece so that weights go to the file from where they lie."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import BinaryIO

import numpy as np
import onnx
from google.protobuf.message import Message  # type: ignore[import-untyped]

from lora_graph.ir.types import Array

Piece = bytes | memoryview

BYTES = 2
"""The wire type of strings, bytes and messages: their length comes first."""


def write_model(file: BinaryIO, model: onnx.ModelProto, data: Mapping[str, Array]) -> None:
    """The message ``model``, with the arrays of ``data`` as the data of its initializers of these names.

    The bytes are those that protobuf writes once :func:`fill` has copied the data into the message.
    """
    number = onnx.GraphProto.INITIALIZER_FIELD_NUMBER
    before, after = _around(model.graph, number)
    graph: list[Piece] = [before]
    for tensor in model.graph.initializer:
        pieces = _tensor(tensor, data.get(tensor.name))
        graph += [_head(number, _length(pieces)), *pieces]
    graph.append(after)
    before, after = _around(model, onnx.ModelProto.GRAPH_FIELD_NUMBER)
    file.writelines([before, _head(onnx.ModelProto.GRAPH_FIELD_NUMBER, _length(graph)), *graph, after])


def fill(model: onnx.ModelProto, data: Mapping[str, Array]) -> None:
    """Give the initializers of ``model`` the arrays of ``data`` as their data."""
    for tensor in model.graph.initializer:
        if tensor.name in data:
            tensor.raw_data = _raw(data[tensor.name]).tobytes()


def _tensor(tensor: onnx.TensorProto, array: Array | None) -> list[Piece]:
    if array is None:
        return [tensor.SerializeToString()]
    raw = _raw(array)
    before, after = _around(tensor, onnx.TensorProto.RAW_DATA_FIELD_NUMBER)
    return [before, _head(onnx.TensorProto.RAW_DATA_FIELD_NUMBER, raw.nbytes), raw, after]


def _around(message: Message, number: int) -> tuple[bytes, bytes]:
    """What comes before the field of this number, and what comes after it: fields go by their numbers."""
    before, after = type(message)(), type(message)()
    for field, value in message.ListFields():
        side = before if field.number < number else after
        if field.number == number:
            continue
        if field.is_repeated:
            getattr(side, field.name).extend(value)
        elif isinstance(value, Message):
            getattr(side, field.name).CopyFrom(value)
        else:
            setattr(side, field.name, value)
    return before.SerializeToString(), after.SerializeToString()


def _raw(array: Array) -> memoryview:
    """The elements in row-major order, little-endian as ONNX wants them."""
    ordered = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    return ordered.reshape(-1).view(np.uint8).data


def _length(parts: Iterable[Piece]) -> int:
    return sum(part.nbytes if isinstance(part, memoryview) else len(part) for part in parts)


def _head(field: int, length: int) -> bytes:
    """What comes before ``length`` bytes of a field: its number and type, then the length."""
    return _varint(field << 3 | BYTES) + _varint(length)


def _varint(number: int) -> bytes:
    """Seven bits a byte, the lowest first; all but the last have the high bit set."""
    digits = bytearray()
    while number > 0x7F:
        digits.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*digits, number])
