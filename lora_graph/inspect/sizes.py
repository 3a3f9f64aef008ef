"""Sizes for the named dimensions of a graph: those that are given, else ones that make sense."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from lora_graph.ir import dims
from lora_graph.ir.graph import Graph
from lora_graph.ir.types import TensorType

OTHER_SIZE = 16
"""What a named dimension is that is no batch."""


def names_of(types: Iterable[TensorType]) -> set[str]:
    """The names in the dimensions of ``types``."""
    return {name for kind in types for size in kind.shape for name in dims.names(size)}


def batch_names(types: Iterable[TensorType]) -> set[str]:
    """The names in the first axes of ``types``."""
    return names_of(kind.with_shape(kind.shape[:1]) for kind in types)


def binding_of(types: Collection[TensorType], given: Mapping[str, int], graph: Graph, batch: int) -> dict[str, int]:
    """A size for every name in ``types``, those of inputs: as given, ``batch`` in a first axis, else OTHER_SIZE.

    Where ``graph`` needs two dimensions to be equal, a name that is neither given nor a batch becomes what makes them
    so.
    """
    names, batches = names_of(types), batch_names(types) - given.keys()
    binding = {name: batch if name in batches else OTHER_SIZE for name in sorted(names)} | dict(given)
    free = names - given.keys() - batches
    for left, right in graph.assumptions if free else ():
        for one, other in ((left, right), (right, left)):
            name = dims.plain_name(one)
            if name in free and set(dims.names(other)) <= binding.keys():
                binding[name] = dims.evaluate(other, binding)
                free.remove(name)
                break
    return binding
