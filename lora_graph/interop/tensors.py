"""Tensors of adapter files that other libraries wrote: read with suspicion, in the precision of the model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lora_graph.errors import LoadError
from lora_graph.ir.types import Array
from lora_graph.layers.weights import cast, read_safetensors

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
"""Endings of files that only unpickling opens, which runs whatever code is in them."""


def read_tensors(path: str | Path, dtype: np.dtype[Any]) -> dict[str, Array]:
    """Every tensor of a safetensors file as ``dtype``; float16 and bfloat16 become what they stand for.

    LoadError naming file and tensor for a file that is broken, names a tensor twice, is a pickle, or holds what is
    no finite number.
    """
    if Path(path).suffix in PICKLES:
        raise LoadError(f"{path}: a pickle may run any code and is never read; save the adapter as safetensors")
    found = read_safetensors(path)
    if not found:
        raise LoadError(f"{path}: holds no tensors")
    return {name: cast(f"{path}: {name}", array, dtype) for name, array in found.items()}


class Tensors:
    """The tensors of one module of a file, by parameter; errors name the file and the tensor as it is called there."""

    def __init__(self, path: str | Path, prefix: str) -> None:
        self.path = path
        self._prefix = prefix
        self._arrays: dict[str, Array] = {}

    def add(self, name: str, array: Array) -> None:
        if name in self._arrays:
            raise self.error(name, "is there twice, in two spellings")
        self._arrays[name] = array

    def __contains__(self, name: str) -> bool:
        return name in self._arrays

    def __getitem__(self, name: str) -> Array:
        if name not in self._arrays:
            raise self.error(name, f"is missing beside {', '.join(self._arrays)}")
        return self._arrays[name]

    def get(self, name: str) -> Array | None:
        return self._arrays.get(name)

    def require(self, name: str, *shape: int | None) -> Array:
        """The tensor ``name``; LoadError unless it is there in this shape, where None is any size."""
        array = self[name]
        fits = len(shape) == array.ndim and all(a in (None, b) for a, b in zip(shape, array.shape, strict=True))
        if not fits:
            wanted = ", ".join("*" if size is None else str(size) for size in shape)
            raise self.error(name, f"has shape {list(array.shape)}, wanted [{wanted}]")
        if array.size == 0:
            raise self.error(name, f"is empty: its shape is {list(array.shape)}")
        return array

    def only(self, known: Iterable[str]) -> None:
        """LoadError for a tensor that is none of ``known``: nothing in a file is passed over."""
        for name in self._arrays:
            if name not in set(known):
                raise self.error(name, f"is not one of those that belong together here: {', '.join(known)}")

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._arrays)

    def error(self, name: str, problem: str) -> LoadError:
        return LoadError(f"{self.path}: {self._prefix}{name} {problem}")


def base_arrays(weights: Mapping[str, Any] | None, dtype: np.dtype[Any]) -> dict[str, Array]:
    """``base_weights`` as arrays; TypeError unless it maps names of parameters to arrays."""
    if weights is None:
        return {}
    if not isinstance(weights, Mapping) or not all(isinstance(name, str) for name in weights):
        raise TypeError(f"base_weights must map names of parameters to arrays, got {type(weights).__name__}")
    floats = {name: np.asarray(weights[name]) for name in weights}
    return {name: cast(f"base_weights: {name}", array, dtype) for name, array in floats.items() if _is_float(array)}


def _is_float(array: Array) -> bool:
    return array.dtype.kind == "f" or array.dtype.name == "bfloat16"
