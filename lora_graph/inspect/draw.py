"""Random inputs that make sense for a graph: sizes that agree, indices within their tables, masks of 0 and 1."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

from lora_graph.inspect.engines import input_types
from lora_graph.inspect.sizes import batch_names, binding_of, names_of
from lora_graph.ir import dims
from lora_graph.ir.graph import Graph
from lora_graph.ir.types import Array, TensorType
from lora_graph.ir.value import Value
from lora_graph.ops.gather import Gather, GatherElements
from lora_graph.ops.select import Cast, Where
from lora_graph.ops.shape import Expand

MANY = 10
"""Whole numbers that are neither indices nor masks are below this."""


class Drawing:
    """Draws the inputs of ``graph``. ``sizes`` are those of named dimensions; ``without`` are inputs left to others.

    Floats are normal; an integer that reaches a Gather is within its table; bools, and integers that become floats or
    are called a mask, are 0 and 1, the first along the last axis always 1.
    """

    def __init__(
        self, graph: Graph, sizes: Mapping[str, int], rng: np.random.Generator, without: Collection[str] = ()
    ) -> None:
        self._graph, self._sizes, self._rng = graph, sizes, rng
        self._types = {name: kind for name, kind in input_types(graph).items() if name not in without}
        self._leaves = dict(zip(input_types(graph), graph.inputs, strict=True))
        self._bounds, self._masks = _indices(graph)
        known_names = names_of(self._types.values())
        self._batches = batch_names(self._types.values()) - sizes.keys()
        unknown = sorted(sizes.keys() - known_names)
        if unknown:
            known = ", ".join(sorted(known_names)) or "none"
            raise ValueError(f"sizes: the inputs have no dimension called {unknown[0]!r}; they have {known}")

    @property
    def has_batch(self) -> bool:
        """Whether the first axis of some input may have any size."""
        return bool(self._batches)

    def inputs(self, batch: int) -> dict[str, Array]:
        """Inputs by name, for ``batch`` samples."""
        binding = self._binding(batch)
        try:
            return {name: self._numbers(name, dims.sizes(kind.shape, binding)) for name, kind in self._types.items()}
        except MemoryError as error:
            sizes = ", ".join(f"{name} = {size}" for name, size in sorted(binding.items()))
            raise ValueError(f"inputs of these sizes do not fit into memory: {sizes}") from error

    def _binding(self, batch: int) -> dict[str, int]:
        return binding_of(self._types.values(), self._sizes, self._graph, batch)

    def _numbers(self, name: str, shape: tuple[int, ...]) -> Array:
        kind, leaf = self._types[name], self._leaves[name]
        if kind.is_float:
            return self._rng.normal(size=shape).astype(kind.dtype)
        if leaf in self._bounds:
            return self._rng.integers(0, max(self._bounds[leaf], 1), shape).astype(kind.dtype)
        if kind.dtype == np.bool_ or leaf in self._masks or "mask" in name.lower():
            mask: Array = self._rng.integers(0, 2, shape).astype(kind.dtype)
            if mask.ndim:
                mask[..., :1] = 1  # what is masked everywhere has no softmax
            return mask
        return self._rng.integers(0, MANY, shape).astype(kind.dtype)

    def matrix(self, kind: TensorType, rank: int) -> Array:
        """A parameter of an adapter whose named dimensions are ``rank``, so small that what it adds stays moderate."""
        shape = dims.sizes(kind.shape, dict.fromkeys((n for size in kind.shape for n in dims.names(size)), rank))
        drawn: Array = self._rng.normal(0, max(shape, default=1) ** -0.5, shape).astype(kind.dtype)
        return drawn


def _indices(graph: Graph) -> tuple[dict[Value, int], set[Value]]:
    """The inputs that are indices, with the length of the shortest axis they go along; and those that become floats."""
    origin: dict[Value, Value] = {leaf: leaf for leaf in graph.inputs if leaf.dtype.kind in "iu"}
    bounds: dict[Value, int] = {}
    masks: set[Value] = set()
    for value in graph.values:
        carried = [origin.get(operand) for operand in value.operands]
        first = next((leaf for leaf in carried if leaf is not None), None)
        if first is None:
            continue
        index = carried[1] if isinstance(value.op, Gather | GatherElements) else None
        if index is not None:
            length = value.operands[0].shape[value.op.axis]  # type: ignore[attr-defined]
            if isinstance(length, int):
                bounds[index] = min(length, bounds.get(index, length))
        elif isinstance(value.op, Cast) and value.dtype.kind not in "iu":
            masks.add(first)
        elif value.op.view or isinstance(value.op, Cast | Expand | Where):
            origin[value] = first
    return bounds, masks
