"""Groups of element-wise ops run tile by tile, so that what passes from op to op stays in the cache."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Any

import numpy as np

from lora_graph.interpret.nodes import Node, kernel

TILE_BYTES = 128 * 1024
"""Bytes of one operand of a tile: a handful of operands fits the second-level cache."""

Index = tuple[Any, ...]
Pattern = tuple[bool, ...] | None
"""For each axis of an array, counted from the last, whether every tile takes all of it; None for a tile of scratch."""


@dataclass(frozen=True)
class Tiling:
    """A cut of arrays of ``shape`` into tiles of ``extent``, which is smaller along leading axes only."""

    shape: tuple[int, ...]
    extent: tuple[int, ...]

    @property
    def elements(self) -> int:
        return prod(self.extent)

    def tiles(self, patterns: Sequence[Pattern]) -> Iterator[tuple[Index, ...]]:
        """For each tile, one index for each array."""
        ranges = [
            [slice(start, min(start + step, size)) for start in range(0, size, step)]
            for size, step in zip(self.shape, self.extent, strict=True)
        ]
        for spans in product(*ranges):
            index = {pattern: _index(spans, pattern) for pattern in set(patterns)}
            yield tuple(index[pattern] for pattern in patterns)


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
    return Tiling(first.shape, tuple(extent))


def patterns(node: Node, nodes: Sequence[Node]) -> list[Pattern]:
    """How the tiles of a node's operands follow from those of its result."""
    return [tuple(d == 1 for d in nodes[operand].shape) for operand in node.operands]


def _index(spans: tuple[slice, ...], pattern: Pattern) -> Index:
    if pattern is None:
        return tuple(slice(0, span.stop - span.start) for span in spans)
    own = spans[len(spans) - len(pattern) :]
    return (..., *(slice(None) if whole else span for span, whole in zip(own, pattern, strict=True)))
