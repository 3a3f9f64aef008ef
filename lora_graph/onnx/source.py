"""Opening a model and checking, before anything is built, that it hangs together."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Protocol, TypeAlias, runtime_checkable

import onnx
from google.protobuf.descriptor import FieldDescriptor  # type: ignore[import-untyped]
from google.protobuf.message import DecodeError, Message  # type: ignore[import-untyped]

from lora_graph.errors import LoadError
from lora_graph.onnx.functions import inlined

MAX_BYTES = 2**31 - 1
OPSETS = range(9, 27)
MAX_MESSAGE = 1000
DEFAULT_DOMAINS = ("", "ai.onnx")


@runtime_checkable
class Script(Protocol):
    """A function written with onnxscript."""

    name: str

    def to_model_proto(self) -> onnx.ModelProto: ...


ModelSource: TypeAlias = str | os.PathLike[str] | bytes | onnx.ModelProto | Script


@dataclass(frozen=True)
class Opened:
    """A model, the folder its external data may lie in, and what to call it in messages."""

    model: onnx.ModelProto
    folder: Path | None
    label: str

    @cached_property
    def opset(self) -> int:
        return next(int(entry.version) for entry in self.model.opset_import if entry.domain in DEFAULT_DOMAINS)


def open_model(source: ModelSource) -> Opened:
    """The model at a path, in bytes, as it is, or of an onnxscript function, checked, its functions written out.

    Raises LoadError, TypeError for another kind of source.
    """
    if isinstance(source, onnx.ModelProto):
        opened = Opened(source, None, "the model")
    elif isinstance(source, Script):
        opened = Opened(source.to_model_proto(), None, f"the function {source.name}")
    elif isinstance(source, bytes | bytearray | memoryview):
        opened = Opened(_parse(bytes(source), "the model"), None, "the model")
    elif isinstance(source, str | os.PathLike):
        path = Path(source)
        opened = Opened(_parse(_content(path), str(path)), path.parent, str(path))
    else:
        known = "a path, bytes, an onnx.ModelProto or an onnxscript function"
        raise TypeError(f"a model is {known}, not {type(source).__name__}")
    try:
        _check_text(opened.model)
        _check_header(opened.model)
        opened = replace(opened, model=inlined(opened.model))
        _check_names(opened.model.graph)
    except ValueError as error:
        raise LoadError(f"{opened.label}: {shorten(str(error))}") from error
    return opened


def shorten(message: str) -> str:
    """``message`` without the middle, if a name or a number in the file makes it very long."""
    half = MAX_MESSAGE // 2
    return message if len(message) <= MAX_MESSAGE else f"{message[:half]} … {message[-half:]}"


def _content(path: Path) -> bytes:
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise LoadError(f"{path}: not a regular file")
        if status.st_size > MAX_BYTES:
            raise LoadError(f"{path}: {status.st_size} bytes are more than an ONNX model can have (2 GB)")
        return path.read_bytes()
    except OSError as error:
        raise LoadError(f"{path}: cannot be read: {error.strerror or error}") from error


def _parse(content: bytes, label: str) -> onnx.ModelProto:
    try:
        return onnx.ModelProto.FromString(content)
    except DecodeError as error:
        raise LoadError(f"{label}: not an ONNX model, or a damaged one ({len(content)} bytes)") from error


def _check_text(message: Message) -> None:
    """Every string is text: protobuf hands over bytes where it is not."""
    for field, value in message.ListFields():
        if field.type == FieldDescriptor.TYPE_STRING:
            for item in (value,) if isinstance(value, str | bytes) else value:
                if isinstance(item, bytes):
                    raise ValueError(f"{field.full_name} is no text: {item[:40]!r}")
        elif field.type == FieldDescriptor.TYPE_MESSAGE:
            for item in (value,) if isinstance(value, Message) else value:
                _check_text(item)


def _check_header(model: onnx.ModelProto) -> None:
    if not model.ir_version or not model.HasField("graph") or not model.graph.output:
        raise ValueError("not an ONNX model, or an incomplete one: no IR version, graph or output")
    versions = [entry.version for entry in model.opset_import if entry.domain in DEFAULT_DOMAINS]
    if len(versions) != 1:
        raise ValueError(f"expected one version of the default opset, got {versions}")
    if versions[0] not in OPSETS:
        raise ValueError(f"opset {versions[0]} is not supported: {OPSETS[0]} to {OPSETS[-1]} are")
    if model.graph.sparse_initializer:
        raise ValueError(f"sparse initializer {model.graph.sparse_initializer[0].values.name!r} is not supported")


def _check_names(graph: onnx.GraphProto) -> None:
    """Every name stands for one thing, and nothing is used before it is there."""
    _unique((item.name for item in graph.input), "input")
    _unique((item.name for item in graph.initializer), "initializer")
    _unique((item.name for item in graph.output), "output")
    known = {item.name for item in graph.input} | {item.name for item in graph.initializer}
    computed = {name for node in graph.node for name in node.output if name}
    for number, node in enumerate(graph.node):
        for name in node.input:
            if name and name not in known:
                why = "before it is computed: a cycle, or nodes out of order" if name in computed else "but not defined"
                raise ValueError(f"{describe(node, number)}: {name!r} is used {why}")
        for name in node.output:
            if name in known:
                raise ValueError(f"{describe(node, number)}: its result {name!r} is defined twice")
            if name:
                known.add(name)
    for item in graph.output:
        if item.name not in known:
            raise ValueError(f"output {item.name!r} is not computed by any node")


def _unique(names: Iterable[str], kind: str) -> None:
    seen: set[str] = set()
    for name in names:
        if not name or name in seen:
            raise ValueError(f"two {kind}s are called {name!r}" if name else f"an {kind} has no name")
        seen.add(name)


def describe(node: onnx.NodeProto, number: int) -> str:
    domain = "" if node.domain in DEFAULT_DOMAINS else f"{node.domain}::"
    return f"node {node.name or number!r} ({domain}{node.op_type})"
