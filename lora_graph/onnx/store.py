"""Writing models to files, large weights to a data file beside them."""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np
import onnx
import onnx_ir as ir

from lora_graph.files import atomic_write
from lora_graph.ir.graph import Graph
from lora_graph.ir.types import Array
from lora_graph.onnx.model import build
from lora_graph.onnx.wire import fill, write_model

EXTERNAL_LIMIT = 2**30
"""Bytes of weights above which they go to a file of their own."""

ALIGNMENT = 4096
"""Where tensors of a data file start: at pages, so that they can be mapped."""

ELSEWHERE = "elsewhere"
"""The file of weights that are handed over in memory; there is none."""

SMALL = 1024
"""Tensors of at most this many bytes stay in the model."""


def save_model(model: onnx.ModelProto, path: str | os.PathLike[str], *, external_limit: int = EXTERNAL_LIMIT) -> None:
    """Write ``model`` to ``path`` so that a reader finds the old model or the new one, whole.

    With more than ``external_limit`` bytes of weights the large ones go to ``<name>.<token>.data`` beside it, which is
    complete before the model that refers to it appears; data files of earlier versions are removed afterwards. Raises
    the OSError that says why ``path`` cannot be written, and leaves everything as it was.
    """
    if not isinstance(model, onnx.ModelProto):
        raise TypeError(f"expected an onnx.ModelProto, got {type(model).__name__}")
    if weight_bytes(model) > external_limit:
        _save_apart(ir.from_proto(model), Path(path))
    else:
        _write(model, {}, Path(path))
        _remove_data(Path(path), keep=None)


def export_model(
    graph: Graph,
    state: Mapping[str, Array],
    path: str | os.PathLike[str],
    *,
    opset: int = 21,
    metadata: Mapping[str, str] | None = None,
    doc: str = "",
    overridable: Collection[str] = (),
    external_limit: int = EXTERNAL_LIMIT,
) -> onnx.ModelProto:
    """Lower ``graph``, write it to ``path`` as :func:`save_model` does, and return what was written.

    Nothing but the returned model has a second copy of the weights, and not of those that are written apart.
    """
    model = build(graph, state, opset=opset, metadata=metadata, doc=doc, overridable=overridable)
    if sum(value.const_value.nbytes for value in model.graph.initializers.values()) > external_limit:
        return _save_apart(model, Path(path))
    return _save_whole(model, Path(path))


def weight_bytes(model: onnx.ModelProto) -> int:
    """How many bytes the initializers of ``model`` take."""
    return sum(
        math.prod(tensor.dims) * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
        for tensor in model.graph.initializer
    )


def without_weights(model: ir.Model) -> tuple[onnx.ModelProto, dict[str, Array]]:
    """``model`` as a message whose large weights are said to be elsewhere, and these by name."""
    large = _large(model)
    message = _message(model, {name: _elsewhere(tensor, name) for name, tensor in large.items()})
    return message, {name: tensor.numpy() for name, tensor in large.items()}


def _save_whole(model: ir.Model, path: Path) -> onnx.ModelProto:
    message, arrays = without_weights(model)
    for tensor in message.graph.initializer:
        if tensor.name in arrays:
            tensor.ClearField("data_location")
            tensor.ClearField("external_data")
    _write(message, arrays, path)
    _remove_data(path, keep=None)
    fill(message, arrays)
    return message


def _save_apart(model: ir.Model, path: Path) -> onnx.ModelProto:
    data = path.with_name(f"{path.name}.{os.urandom(4).hex()}.data")
    try:
        with atomic_write(data) as file:
            moved = {name: _append(file, tensor, name, data) for name, tensor in _large(model).items()}
        message = _message(model, moved)
        _write(message, {}, path)
    except BaseException:
        data.unlink(missing_ok=True)
        raise
    _remove_data(path, keep=data)
    return message


def _large(model: ir.Model) -> dict[str, ir.TensorProtocol]:
    weights = {name: value.const_value for name, value in model.graph.initializers.items()}
    return {name: tensor for name, tensor in weights.items() if tensor is not None and tensor.nbytes > SMALL}


def _message(model: ir.Model, replaced: Mapping[str, ir.TensorProtocol]) -> onnx.ModelProto:
    """``model`` with other tensors for some of its weights, as a message; the model itself stays as it is."""
    values = [model.graph.initializers[name] for name in replaced]
    before = [value.const_value for value in values]
    try:
        for value, tensor in zip(values, replaced.values(), strict=True):
            value.const_value = tensor
        return ir.to_proto(model)
    finally:
        for value, held in zip(values, before, strict=True):
            value.const_value = held


def _write(model: onnx.ModelProto, data: Mapping[str, Array], path: Path) -> None:
    with atomic_write(path) as file:
        write_model(file, model, data)


def _elsewhere(tensor: ir.TensorProtocol, name: str) -> ir.ExternalTensor:
    """A tensor of the same type whose data is not in the message."""
    return ir.ExternalTensor(ELSEWHERE, 0, tensor.nbytes, tensor.dtype, shape=tensor.shape, name=name)


def _append(file: BinaryIO, tensor: ir.TensorProtocol, name: str, data: Path) -> ir.ExternalTensor:
    """Write ``tensor`` at the next page of ``file`` and refer to it there."""
    file.write(b"\0" * (-file.tell() % ALIGNMENT))
    offset = file.tell()
    array = np.ascontiguousarray(tensor.numpy())
    file.write(array.reshape(-1).view(np.uint8).data)
    return ir.ExternalTensor(
        data.name, offset, array.nbytes, tensor.dtype, shape=tensor.shape, name=name, base_dir=data.parent
    )


def _remove_data(path: Path, keep: Path | None) -> None:
    """Remove data files that earlier versions of the model at ``path`` left behind."""
    for other in path.parent.iterdir():
        token = other.name.removeprefix(f"{path.name}.").removesuffix(".data")
        if other != keep and other.name == f"{path.name}.{token}.data" and len(token) == 8 and token.isalnum():
            other.unlink()
