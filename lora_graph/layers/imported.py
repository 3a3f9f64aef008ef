"""A graph from elsewhere as a layer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from lora_graph.errors import LoadError
from lora_graph.ir.dims import Dim
from lora_graph.ir.graph import Graph, replace
from lora_graph.ir.leaves import Input
from lora_graph.ir.types import Array, TensorType
from lora_graph.layers.interface import alone, bind, by_name, ends_in
from lora_graph.layers.layer import Layer
from lora_graph.layers.parameters import Slot
from lora_graph.layers.trace import Context
from lora_graph.rewrite.engine import rewrite
from lora_graph.rewrite.merge import UNFUSE

FORM, ADAPTERS = "lora_graph.form", "lora_graph.adapters"
"""The metadata in which an exported model says how it was deployed and which adapters it holds."""

_FIELDS = {"path", "family", "rank", "exported_rank", "alpha", "scaling", "site", "parameters", "scale_folded_into"}


class ImportedLayer(Layer):
    """The function that a graph computes, with the graph's parameters as its own.

    Inputs and outputs keep their names and types, parameters their names and whether they train. ``metadata`` is what
    the file said of itself, ``adapters`` the adapters among it. A Gemm is taken apart, so that adapters find the
    product in it; exporting fuses it again.
    """

    any_rank = False

    def __init__(self, graph: Graph, state: Mapping[str, Array], metadata: Mapping[str, str] | None = None):
        super().__init__(
            input_shape={leaf.op.label: leaf.shape[1:] for leaf in graph.inputs if isinstance(leaf.op, Input)},
            output_shape={name: value.shape[1:] for name, value in graph.outputs.items()},
            dtype=_precision(graph),
            layer_name=graph.name,
        )
        self.metadata = dict(metadata or {})
        self.adapters = read_adapters(self.metadata.get(ADAPTERS, "[]"))
        self._graph, _ = rewrite(graph, UNFUSE)
        for label in graph.parameters:
            self._slots[label] = Slot(state[label], label in graph.trainable)

    @property
    def graph(self) -> Graph:
        """What it computes."""
        return self._graph

    def exchange(self, graph: Graph, slots: Mapping[str, Slot]) -> None:
        """Compute what ``graph`` does, which has the same inputs and outputs, from now on.

        ``slots`` are those of its parameters that there are not yet; those that it lacks are dropped.
        """
        self._graph = graph
        self._slots = {label: self._slots.get(label) or slots[label] for label in graph.parameters}

    @property
    def inputs(self) -> dict[str, TensorType]:
        return dict(zip(self.input_shapes, (leaf.type for leaf in self._graph.inputs), strict=True))

    @property
    def outputs(self) -> dict[str, TensorType]:
        return {name: value.type for name, value in self._graph.outputs.items()}

    @property
    def input_dtype(self) -> np.dtype[Any]:
        """The dtype of the only input; ValueError where there are several."""
        return self._sole(self.inputs, "input").dtype

    def build(self, ctx: Context, x: Any) -> Any:
        given = by_name(list(self.input_shapes), x, "input")
        leaves = dict(zip(self._graph.inputs, given.values(), strict=True))
        binding: dict[str, Dim] = {}
        for leaf, value in leaves.items():
            bind(leaf.shape, value.shape, binding)
        for leaf, value in leaves.items():
            if not _fits(leaf.type.substitute(binding), value.type):
                raise ValueError(f"{self.layer_name} takes {leaf.op.label!r} as {leaf.type}, got {value.type}")  # type: ignore[attr-defined]
        parameters = {leaf: ctx.param(label) for label, leaf in self._graph.parameters.items()}
        noted = [value for value in self._graph.values if value in self._graph.notes]
        found = replace([*self._graph.outputs.values(), *noted], {**leaves, **parameters}, binding)
        for old, new in zip(noted, found[len(self._graph.outputs) :], strict=True):
            note = self._graph.notes[old]
            ctx.claim(new, note.scope, note.rules)
        return alone(dict(zip(self._graph.outputs, found, strict=False)))

    def get_diagnostics(self) -> dict[str, str]:
        families = ", ".join(f"{a['path'] or 'model'}: {a['family']} rank {a['exported_rank']}" for a in self.adapters)
        return {**super().get_diagnostics(), "form": self.metadata.get(FORM, "foreign"), "adapters": families or "none"}


def _precision(graph: Graph) -> np.dtype[Any]:
    """float32 or float64: that of the first input, output or parameter which is one of them."""
    kinds = [leaf.dtype for leaf in (*graph.inputs, *graph.outputs.values(), *graph.parameters.values())]
    return next((kind for kind in kinds if kind in (np.float32, np.float64)), np.dtype(np.float32))


def _fits(declared: TensorType, given: TensorType) -> bool:
    return declared.dtype == given.dtype and declared.rank == given.rank and ends_in(given.shape, declared.shape)


def read_adapters(text: str) -> list[dict[str, Any]]:
    """The adapters that a model's metadata tells of; LoadError where it is not what an export writes."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise LoadError(f"the metadata {ADAPTERS} is not JSON") from error
    if not isinstance(found, list) or not all(isinstance(entry, dict) and entry.keys() >= _FIELDS for entry in found):
        raise LoadError(f"the metadata {ADAPTERS} must be a list of adapters with {', '.join(sorted(_FIELDS))}")
    for entry in found:
        for name in ("parameters", "scale_folded_into"):
            if not isinstance(entry[name], list) or not all(isinstance(label, str) for label in entry[name]):
                raise LoadError(f"the metadata {ADAPTERS}: {name} must be a list of names, got {entry[name]!r}")
    return found
