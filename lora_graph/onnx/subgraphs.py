"""Nodes with graphs inside: what these use of what is around them, and other names for it all."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import onnx
from google.protobuf.message import Message  # type: ignore[import-untyped]


def graphs_of(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The graphs that are attributes of ``node``."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def nested_nodes(node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
    """``node`` and every node inside it."""
    yield node
    for graph in graphs_of(node):
        for inner in graph.node:
            yield from nested_nodes(inner)


def captured(node: onnx.NodeProto) -> list[str]:
    """The names that graphs inside ``node`` use and do not define, in order; ValueError for one that is both."""
    found: dict[str, None] = {}
    for graph in graphs_of(node):
        own = {item.name for item in (*graph.input, *graph.initializer)}
        wanted: dict[str, None] = {}
        for inner in graph.node:
            wanted.update(dict.fromkeys(name for name in (*inner.input, *captured(inner)) if name and name not in own))
            own.update(inner.output)
        wanted.update(dict.fromkeys(item.name for item in graph.output if item.name not in own))
        shadowed = sorted(own & set(wanted))
        if shadowed:
            raise ValueError(f"{shadowed[0]!r} is used inside before it is computed there")
        found.update(wanted)
    return list(found)


def rename(node: onnx.NodeProto, name_of: Callable[[str], str]) -> None:
    """Give every value that ``node`` and the graphs in it name the name that ``name_of`` says."""
    for names in (node.input, node.output):
        names[:] = [name_of(name) if name else "" for name in names]
    for graph in graphs_of(node):
        for item in (*graph.input, *graph.output, *graph.initializer, *graph.value_info):
            item.name = name_of(item.name)
        for inner in graph.node:
            rename(inner, name_of)


def tensors_in(message: Message) -> Iterator[onnx.TensorProto]:
    """Every tensor in ``message``, however deep."""
    for field, value in message.ListFields():
        if field.type == field.TYPE_MESSAGE:
            for item in (value,) if isinstance(value, Message) else value:
                if isinstance(item, onnx.TensorProto):
                    yield item
                else:
                    yield from tensors_in(item)
