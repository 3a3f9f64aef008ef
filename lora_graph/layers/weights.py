"""Weights in files: safetensors, read with suspicion and written atomically. Nothing is ever unpickled."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lora_graph import checks
from lora_graph.errors import LoadError
from lora_graph.files import atomic_write
from lora_graph.ir.types import Array

if TYPE_CHECKING:
    from lora_graph.layers.layer import Layer


NAMED = 8
"""Names that the text of a report lists of each kind."""


@dataclass(frozen=True)
class WeightReport:
    """How the names and shapes of some weights compare with those of a layer."""

    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    wrong_shape: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]
    """By name: the shape that was given and the shape that is wanted."""

    @property
    def ok(self) -> bool:
        """Whether names and shapes are exactly those that are wanted."""
        return not (self.missing or self.unexpected or self.wrong_shape)

    @classmethod
    def compare(cls, given: Mapping[str, npt.ArrayLike], wanted: Mapping[str, Array]) -> WeightReport:
        """TypeError unless ``given`` is a mapping from names."""
        if not isinstance(given, Mapping):
            raise TypeError(f"weights must be a mapping from names to arrays, got {type(given).__name__}")
        shapes = {name: np.shape(given[name]) for name in given}
        wrong = {n: (shapes[n], a.shape) for n, a in wanted.items() if n in shapes and shapes[n] != a.shape}
        return cls(
            loaded=tuple(name for name in wanted if name in shapes and name not in wrong),
            missing=tuple(name for name in wanted if name not in shapes),
            unexpected=tuple(sorted(name for name in shapes if name not in wanted)),
            wrong_shape=wrong,
        )

    def __str__(self) -> str:
        parts = [f"{len(self.loaded)} loaded"]
        for title, names in (("missing", self.missing), ("unexpected", self.unexpected)):
            if names:
                more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
                parts.append(f"{title}: {', '.join(names[:NAMED])}{more}")
        parts.extend(f"{name} has shape {given}, wanted {wanted}" for name, (given, wanted) in self.wrong_shape.items())
        return "; ".join(parts)


def load_into(layer: Layer, source: Mapping[str, npt.ArrayLike] | str | Path, strict: bool) -> WeightReport:
    """Set the parameters of ``layer`` from ``source``: all that fit, or, on a LoadError, none."""
    if not isinstance(source, Mapping | str | PathLike):
        raise TypeError(f"source must be a mapping from names to arrays, or a path, got {type(source).__name__}")
    given = source if isinstance(source, Mapping) else read_safetensors(source)
    where = "the weights" if isinstance(source, Mapping) else str(source)
    report = layer.validate_weights(given)
    if report.wrong_shape or (strict and not report.ok):
        raise LoadError(f"{where} do not fit {layer.layer_name}: {report}")
    state = layer.state
    layer.assign({name: cast(f"{where}: {name}", given[name], state[name].dtype) for name in report.loaded})
    return report


def save_weights(state: Mapping[str, Array], path: str | Path, metadata: Mapping[str, str] | None = None) -> None:
    from safetensors.numpy import save

    tensors = {name: np.asarray(array, order="C") for name, array in state.items()}
    content = save(tensors, dict(metadata) if metadata else None)
    with atomic_write(path) as file:
        file.write(content)


def read_safetensors(path: str | Path) -> dict[str, Array]:
    """Every tensor of a safetensors file, in its order; bfloat16 as the float32 that it is the upper half of.

    LoadError for a file that is broken, that names a tensor twice, or has one of a kind that NumPy lacks.
    """
    from safetensors import SafetensorError, deserialize

    content = _content(path)
    header = _read_header(path, content)
    try:
        found = dict(deserialize(content))  # type: ignore[no-untyped-call]
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise LoadError(f"{path}: not a safetensors file that can be trusted: {error}") from error
    return {name: _array(f"{path}: {name}", **found[name]) for name in header if name in found}


_DTYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BOOL": "?", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1",
    "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1",
}  # fmt: skip


def _array(what: str, dtype: str, shape: list[int], data: bytes) -> Array:
    if dtype == "BF16":
        return (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32).reshape(shape)
    if dtype not in _DTYPES:
        raise LoadError(f"{what} is {dtype}, which is not read; save it as float16, bfloat16 or float32")
    return np.frombuffer(data, _DTYPES[dtype]).reshape(shape)


def read_metadata(path: str | Path) -> dict[str, str]:
    """The metadata in the header of a safetensors file."""
    header = _read_header(path, _content(path))
    return {str(key): str(value) for key, value in (header.get("__metadata__") or {}).items()}


def _content(path: str | Path) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise LoadError(f"{path}: cannot be read: {error.strerror or error}") from error


def _read_header(path: str | Path, content: bytes) -> dict[str, Any]:
    """The header as plain data; LoadError where it is broken or names a tensor twice."""
    size = int.from_bytes(content[:8], "little")
    if len(content) < 8 or size > len(content) - 8:
        raise LoadError(f"{path}: not a safetensors file: it is shorter than its header says")

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, value in pairs:
            if name in found:
                raise LoadError(f"{path}: names {name!r} twice")
            found[name] = value
        return found

    try:
        header = json.loads(content[8 : 8 + size], object_pairs_hook=unique)
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise LoadError(f"{path}: not a safetensors file: its header is no JSON") from error
    if not isinstance(header, dict):
        raise LoadError(f"{path}: not a safetensors file: its header is no JSON object")
    return header


def cast(what: str, value: npt.ArrayLike, dtype: np.dtype[Any]) -> Array:
    """A copy of ``value`` as ``dtype``; LoadError unless it holds finite numbers that ``dtype`` can hold."""
    try:
        with np.errstate(over="ignore"):
            array = np.array(checks.numeric(what, value, dtype))
    except (TypeError, ValueError) as error:
        raise LoadError(str(error)) from error
    if dtype.kind == "f" and not np.isfinite(array).all():
        raise LoadError(f"{what} holds values that are not finite as {dtype}")
    return array
