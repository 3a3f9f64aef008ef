"""How arrays lie in one piece of memory."""

from __future__ import annotations

from typing import Any

import numpy as np

from lora_graph.ir.types import Array, TensorType, TupleType

ALIGNMENT = 64


def rounded(nbytes: int) -> int:
    return -(-nbytes // ALIGNMENT) * ALIGNMENT


def room(kind: TensorType | TupleType) -> int:
    """Bytes that an array of this type takes, or several one after the other."""
    if isinstance(kind, TupleType):
        return sum(rounded(room(item)) for item in kind.items)
    return int(np.prod(kind.shape, dtype=np.int64)) * kind.dtype.itemsize  # type: ignore[arg-type]


def carve(memory: Array, kind: TensorType | TupleType, shape: tuple[int, ...] | None = None) -> Any:
    """The array at the start of ``memory``, in ``shape`` where it is a part of ``kind`` only; or a tuple of several."""
    if isinstance(kind, TensorType):
        part = kind if shape is None else kind.with_shape(shape)
        return memory[: room(part)].view(part.dtype).reshape(part.shape)
    arrays, offset = [], 0
    for item in kind.items:
        arrays.append(carve(memory[offset:], item))
        offset += rounded(room(item))
    return tuple(arrays)
