"""Findings about the tensors of a file: against the types that are wanted, and by themselves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from lora_graph.inspect.report import Finding, error, note
from lora_graph.ir import dims
from lora_graph.ir.types import Array, TensorType, type_of


def compared(given: Mapping[str, Array], wanted: Mapping[str, TensorType]) -> Iterator[Finding]:
    """Names that are missing or too many; dtypes and shapes that differ.

    A named dimension has the size that it has in the first tensor with it, as the rank of a pair has in A.
    """
    for name, kind in wanted.items():
        if name not in given:
            yield error(name, f"is missing; the model takes {kind}")
    for name in given:
        if name not in wanted:
            yield error(name, "is nothing that the model takes")
    binding: dict[str, int] = {}
    for name, kind in wanted.items():
        if name not in given:
            continue
        found = type_of(given[name])
        is_fitting = dims.fits(kind.shape, given[name].shape, binding)
        known = TensorType(kind.dtype, tuple(dims.substitute(size, binding) for size in kind.shape))
        if not is_fitting or known.shape != found.shape:
            bound = sorted({n for size in kind.shape for n in dims.names(size)} & binding.keys())
            sizes = ", ".join(f"{n} = {binding[n]}" for n in bound)
            which = f", with {sizes} as in tensors before" if bound else ""
            yield error(name, f"has shape {list(found.shape)}, the model takes {list(known.shape)}{which}")
        if found.dtype != kind.dtype:
            yield error(name, f"is {found.dtype.name}, the model takes {kind.dtype.name}")


def judged(tensors: Mapping[str, Array]) -> Iterator[Finding]:
    """Numbers that are not finite, and matrices that are all zero, as those of an adapter before training."""
    for name, array in tensors.items():
        if not TensorType(array.dtype, ()).is_float:
            continue
        if array.size == 0:
            yield note(name, f"is empty {list(array.shape)}: there is no adapter here")
        elif odd := np.count_nonzero(~np.isfinite(array.astype(np.float64))):
            yield error(name, f"holds {odd} values that are not finite")
        elif array.ndim > 1 and not array.any():
            yield note(name, "is all zero: not trained, or not meant to change anything")
