"""Tensors of a model file as arrays, trusting none of the sizes and places that the file gives."""

from __future__ import annotations

import math
import os
import stat
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import onnx

from lora_graph.errors import LoadError
from lora_graph.ir.types import Array

DTYPES = (
    *("FLOAT", "DOUBLE", "FLOAT16", "BFLOAT16", "BOOL"),
    *("INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64"),
)


def dtype_of(elem_type: int) -> np.dtype[Any]:
    """The NumPy dtype of an ONNX element type; ValueError for one that this package does not compute with."""
    known = elem_type in onnx.TensorProto.DataType.values()
    name = onnx.TensorProto.DataType.Name(elem_type) if known else str(elem_type)
    if name not in DTYPES:
        raise ValueError(f"the element type {name} is not supported")
    dtype: np.dtype[Any] = onnx.helper.tensor_dtype_to_np_dtype(elem_type)
    return dtype


def read_tensor(tensor: onnx.TensorProto, folder: Path | None, label: str) -> Array:
    """``tensor`` as an array, perhaps read-only or mapped from its file; ``folder`` is where external data may lie.

    Raises LoadError naming ``label`` (the file) and the tensor where the data is not exactly what the dims say.
    """
    try:
        return _read(tensor, folder)
    except (ValueError, OSError) as error:
        raise LoadError(f"{label}: tensor {tensor.name!r}: {error}") from error


def _read(tensor: onnx.TensorProto, folder: Path | None) -> Array:
    dtype, shape = dtype_of(tensor.data_type), tuple(tensor.dims)
    if min(shape, default=0) < 0:
        raise ValueError(f"negative dims {list(shape)}")
    size = math.prod(shape)
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        array = _external(tensor, folder, dtype, shape)
    elif tensor.HasField("raw_data"):
        raw, wanted = tensor.raw_data, size * dtype.itemsize  # asked for once: each time it is a copy
        if len(raw) != wanted:
            raise ValueError(f"dims {list(shape)} of {dtype} take {wanted} bytes, but there are {len(raw)}")
        array = np.frombuffer(raw, dtype).reshape(shape)
    else:
        stored = getattr(tensor, onnx.helper.tensor_dtype_to_field(tensor.data_type))
        if len(stored) != size:
            raise ValueError(f"dims {list(shape)} take {size} elements, but there are {len(stored)}")
        array = onnx.numpy_helper.to_array(tensor)
    if dtype == np.bool_ and array.size and array.view(np.uint8).max() > 1:
        raise ValueError("a bool must be stored as 0 or 1")
    return array


def _external(tensor: onnx.TensorProto, folder: Path | None, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Array:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    if folder is None:
        raise ValueError(f"its data is in the file {location!r}, which only a model read from a path can have")
    path = _beside(folder, location)
    wanted = math.prod(shape) * dtype.itemsize
    offset, length = _number(entries, "offset", 0), _number(entries, "length", wanted)
    if length != wanted:
        raise ValueError(f"dims {list(shape)} of {dtype} take {wanted} bytes, but length is {length}")
    with open(os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0)), "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
            raise ValueError(f"external data {location!r} must be a regular file without links to it")
        if offset + length > status.st_size:
            raise ValueError(f"bytes {offset}..{offset + length} are beyond the {status.st_size} of {location!r}")
        if not length:
            return np.zeros(shape, dtype)
        return np.asarray(np.memmap(file, dtype, "c", offset, shape))


def _beside(folder: Path, location: str) -> Path:
    """The file ``location`` below ``folder``; ValueError if it is no plain relative path or passes a link."""
    parts = PurePosixPath(location).parts
    if not parts or "\\" in location or ":" in location or location.startswith("/") or ".." in parts:
        raise ValueError(f"external data must be a file inside the model's folder, not {location!r}")
    path = folder
    for part in parts:
        path /= part
        if path.is_symlink():
            raise ValueError(f"external data {location!r} is a link")
    if not path.is_file():
        raise ValueError(f"external data {location!r} is missing or no regular file")
    return path


def _number(entries: dict[str, str], key: str, default: int) -> int:
    text = entries.get(key)
    if text is None:
        return default
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise ValueError(f"external data has the {key} {text!r}")
    return int(text)
