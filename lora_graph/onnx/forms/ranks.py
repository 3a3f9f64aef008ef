"""The rank axes of a pair's matrices: finding them, widening and joining matrices along them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from lora_graph.ir import dims
from lora_graph.ir.types import Array
from lora_graph.onnx.forms.slots import Slot


def rank_axis(slot: Slot, own: str) -> tuple[int, int]:
    """The axis of the parameter ``own`` that holds the rank, and how many groups of so many it holds."""
    once, twice = (dims.sizes(slot.shapes(rank)[own], {}) for rank in (1, 2))
    (axis,) = [i for i, (a, b) in enumerate(zip(once, twice, strict=True)) if a != b]
    return axis, once[axis]


def rank_of(slot: Slot, arrays: Mapping[str, Array]) -> int:
    """The rank of a pair with these arrays."""
    axis, groups = rank_axis(slot, "B")
    return int(arrays["B"].shape[axis]) // groups


def widened(slot: Slot, arrays: Mapping[str, Array] | None, rank: int, dtype: npt.DTypeLike) -> dict[str, Array]:
    """``arrays`` with zeros added up to ``rank``; None stands for no components at all."""
    shapes = {own: dims.sizes(shape, {}) for own, shape in slot.shapes(rank).items()}
    if arrays is None:
        return {own: np.zeros(shape, dtype) for own, shape in shapes.items()}
    found = {}
    for own, array in arrays.items():
        apart, axis = _apart(slot, own, array)
        pads = [(0, rank - size if i == axis else 0) for i, size in enumerate(apart.shape)]
        found[own] = np.pad(apart, pads).reshape(shapes[own])
    return found


def joined(slot: Slot, own: str, arrays: Sequence[Array]) -> Array:
    """The parameter ``own`` of several pairs as that of one, whose rank is theirs together."""
    parts = [_apart(slot, own, array) for array in arrays]
    axis, _ = rank_axis(slot, own)
    whole = np.concatenate([apart for apart, _ in parts], axis=axis + 1)
    return whole.reshape(*whole.shape[:axis], -1, *whole.shape[axis + 2 :])


def _apart(slot: Slot, own: str, array: Array) -> tuple[Array, int]:
    """``array`` with the groups and the rank on axes of their own, and that of the rank."""
    axis, groups = rank_axis(slot, own)
    shape = array.shape
    return array.reshape(*shape[:axis], groups, shape[axis] // groups, *shape[axis + 1 :]), axis + 1
