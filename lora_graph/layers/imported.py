"""A graph from elsewhere as a layer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from lora_graph.errors import LoadError
from lora_graph.ir.dims import Dim, plain_name
from lora_graph.ir.graph import Graph, replace
from lora_graph.ir.types import Array, show
from lora_graph.ir.value import Value
from lora_graph.layers.layer import Layer
from lora_graph.layers.parameters import Slot
from lora_graph.layers.trace import Context
from lora_graph.rewrite.engine import rewrite
from lora_graph.rewrite.merge import UNFUSE

FORM, ADAPTERS = "lora_graph.form", "lora_graph.adapters"
"""The metadata in which an exported model says how it was deployed and which adapters it holds."""

_FIELDS = {"path", "family", "rank", "exported_rank", "alpha", "scaling", "site", "parameters", "scale_folded_into"}


class ImportedLayer(Layer):
    """The function that a graph with one input and one output computes, with the graph's parameters as its own.

    Parameters keep their names and whether they train. ``metadata`` is what the file said of itself, ``adapters`` the
    adapters among it. A Gemm is taken apart, so that adapters find the product in it; exporting fuses it again.
    """

    def __init__(self, graph: Graph, state: Mapping[str, Array], metadata: Mapping[str, str] | None = None):
        if len(graph.inputs) != 1 or len(graph.outputs) != 1:
            raise LoadError(
                f"a layer has one input and one output, this model has the inputs {graph.input_names} "
                f"and the outputs {list(graph.outputs)}"
            )
        (source,), (result,) = graph.inputs, graph.outputs.values()
        if not source.rank or not result.rank:
            raise LoadError(f"a layer takes and gives batches, this model maps {source.type} to {result.type}")
        dtype = source.dtype if source.type.is_float else np.dtype(np.float32)
        super().__init__(
            input_shape=source.shape[1:], output_shape=result.shape[1:], dtype=dtype, layer_name=graph.name
        )
        self.metadata = dict(metadata or {})
        self.adapters = read_adapters(self.metadata.get(ADAPTERS, "[]"))
        self._graph, _ = rewrite(graph, UNFUSE)
        for label in graph.parameters:
            self._slots[label] = Slot(state[label], label in graph.trainable)

    @property
    def input_dtype(self) -> np.dtype[Any]:
        return self._graph.inputs[0].dtype

    def build(self, ctx: Context, x: Value) -> Value:
        (source,), (result,) = self._graph.inputs, self._graph.outputs.values()
        if x.rank != source.rank:
            raise ValueError(f"{self.layer_name} takes inputs of shape {show(source.shape)}, got {show(x.shape)}")
        binding: dict[str, Dim] = {}
        for declared, given in zip(source.shape, x.shape, strict=True):
            name = plain_name(declared)
            if name is not None:
                binding.setdefault(name, given)
            elif isinstance(declared - given, int) and declared != given:
                raise ValueError(f"{self.layer_name} takes inputs of shape {show(source.shape)}, got {show(x.shape)}")
        leaves = {leaf: ctx.param(label) for label, leaf in self._graph.parameters.items()}
        (y,) = replace([result], {source: x, **leaves}, binding)
        return y

    def get_diagnostics(self) -> dict[str, str]:
        families = ", ".join(f"{a['path'] or 'model'}: {a['family']} rank {a['exported_rank']}" for a in self.adapters)
        return {**super().get_diagnostics(), "form": self.metadata.get(FORM, "foreign"), "adapters": families or "none"}


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
