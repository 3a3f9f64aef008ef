"""Element-wise groups run tile by tile, so that what passes from op to op stays in the cache."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Any

import numpy as np

from lora_graph.interpret.nodes import Kind, Node, kernel

TILE_BYTES = 128 * 1024
"""Bytes of one operand of a tile: a handful of operands fits the second-level cache."""

Index = tuple[Any, ...]


@dataclass(frozen=True)
class Tiling:
    """A cut of arrays of ``shape`` into tiles of ``extent``, which is smaller along leading axes only."""

    shape: tuple[int, ...]
    extent: tuple[int, ...]

    @property
    def elements(self) -> int:
        return prod(self.extent)

    def tiles(self, shapes: Sequence[tuple[int, ...] | None]) -> Iterator[tuple[Index, ...]]:
        """For each tile, one index for each array: of ``shape`` broadcast with it, or of ``extent`` where None."""
        flags = [None if shape is None else tuple(d == 1 for d in shape) for shape in shapes]
        ranges = [
            [slice(start, min(start + step, size)) for start in range(0, size, step)]
            for size, step in zip(self.shape, self.extent, strict=True)
        ]
        for spans in product(*ranges):
            index = {flag: _index(spans, flag) for flag in set(flags)}
            yield tuple(index[flag] for flag in flags)


def tiling(nodes: Sequence[Node], group: Sequence[int]) -> Tiling | None:
    """How to cut a group of element-wise ops, or None where running op after op is as good."""
    first = nodes[group[0]]
    if first.grain is None or (len(group) == 1 and isinstance(kernel(first), np.ufunc)):
        return None
    itemsize = max(nodes[i].tensor.dtype.itemsize for i in group)
    if prod(first.shape) * itemsize < 2 * TILE_BYTES:
        return None
    extent, room = list(first.shape), TILE_BYTES // itemsize
    for axis in range(len(extent)):
        inner = prod(extent[axis + 1 :])
        extent[axis] = min(extent[axis], max(1, room // inner))
        if inner <= room:
            break
    assert all(nodes[i].kind is Kind.PLANNED for i in group)
    return Tiling(first.shape, tuple(extent))


def _index(spans: tuple[slice, ...], stretched: tuple[bool, ...] | None) -> Index:
    if stretched is None:
        return tuple(slice(0, span.stop - span.start) for span in spans)
    own = spans[len(spans) - len(stretched) :] if stretched else ()
    return (
        ...,
        *(slice(None) if is_stretched else span for span, is_stretched in zip(own, stretched, strict=True)),
    )
