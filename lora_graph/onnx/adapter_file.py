"""ONNX Runtime's adapter files: arrays by name, with a version of the adapter and one of the model it is for."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from lora_graph.errors import LoadError
from lora_graph.files import atomic_write
from lora_graph.ir.types import Array, TensorType, type_of

MAGIC = b"TORT"
"""What stands at the fifth byte of such a file."""

VERSION = 1
"""The version of what adapter files of this package hold: matrices with the scale in B."""


@dataclass(frozen=True)
class AdapterFile:
    """The arrays of an adapter, and the number that stands for the base it was made for."""

    arrays: Mapping[str, Array]
    model_version: int

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write it to ``path``, atomically: sessions that have loaded an older file there keep what they have."""
        made = onnxruntime.AdapterFormat()
        made.set_adapter_version(VERSION)
        made.set_model_version(self.model_version)
        values = {name: np.ascontiguousarray(a).reshape(a.shape) for name, a in self.arrays.items()}
        made.set_parameters({n: onnxruntime.OrtValue.ortvalue_from_numpy(a) for n, a in values.items()})
        with tempfile.TemporaryDirectory(prefix="lora_graph-") as folder:
            temporary = Path(folder, "adapter")
            made.export_adapter(str(temporary))
            content = temporary.read_bytes()
        with atomic_write(path) as file:
            file.write(content)

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> AdapterFile:
        """LoadError for a file that is no adapter, is of another version, or holds numbers that are not finite."""
        with _opened(path) as (views, version):
            return cls({name: np.array(view) for name, view in views.items()}, version)


def inspect_adapter(path: str | os.PathLike[str]) -> tuple[dict[str, TensorType], int]:
    """The types of the arrays in a file, and its model version; LoadError as for reading it."""
    with _opened(path) as (views, version):
        return {name: type_of(view) for name, view in views.items()}, version


def read_unchecked(path: str | os.PathLike[str]) -> tuple[dict[str, Array], int, int]:
    """The arrays in a file, its adapter version and its model version, as they are; LoadError for no such file."""
    found, values = _parsed(os.fspath(path))
    arrays = {name: np.array(value.numpy()) for name, value in values.items()}
    return arrays, found.get_adapter_version(), found.get_model_version()


@contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[tuple[dict[str, Array], int]]:
    """The arrays of a file as views of it, which end with the block, and its model version."""
    where = os.fspath(path)
    found, values = _parsed(where)
    views = {name: value.numpy() for name, value in values.items()}
    if found.get_adapter_version() != VERSION:
        raise LoadError(f"{where}: its adapter version is {found.get_adapter_version()}, expected {VERSION}")
    for name, view in views.items():
        if not np.isfinite(view).all():
            raise LoadError(f"{where}: {name} holds values that are not finite")
    yield views, found.get_model_version()


def _parsed(where: str) -> tuple[Any, dict[str, Any]]:
    """A file as ONNX Runtime reads it, and its values by name; LoadError where it cannot."""
    if not Path(where).is_file():
        raise LoadError(f"{where}: no such file")
    try:
        found = onnxruntime.AdapterFormat.read_adapter(where)
        return found, dict(found.get_parameters())
    except Exception as error:  # ONNX Runtime's own exceptions have no common base class but this one
        raise LoadError(f"{where}: not an adapter file of ONNX Runtime, or a damaged one") from error


def model_version(fingerprint: str) -> int:
    """The number that stands for a base: as many bits of its fingerprint as a version has. LoadError for no number."""
    try:
        return int(fingerprint[:8], 16) & 0x7FFFFFFF
    except ValueError as error:
        raise LoadError(f"the fingerprint of a base must be hexadecimal, got {fingerprint!r}") from error
