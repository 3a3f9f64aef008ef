"""Several adapters at once, each with a weight that is given when the model runs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lora_graph.adapters.adapted import AdaptedModel
from lora_graph.ir.graph import Graph
from lora_graph.ir.leaves import Parameter
from lora_graph.ir.types import tensor
from lora_graph.ir.value import Value, apply
from lora_graph.layers.layer import Layer
from lora_graph.onnx.forms.deployment import Deployment
from lora_graph.onnx.forms.describe import describe_adapters, scaled_into
from lora_graph.onnx.forms.neutral import is_linear_in, without
from lora_graph.onnx.forms.slots import InputShape, Slot, adapters, cleared, find_slots
from lora_graph.rewrite.fold import exchanged
from lora_graph.rewrite.pipeline import optimize_graph


def weighted(layer: Layer, input_shape: InputShape) -> Deployment:
    """base(x) + Σ wₖ deltaₖ(x), with the scalar wₖ as an overridable initializer ``<adapter>.weight`` of value 1.

    The weight scales those parameters of an adapter that its delta is linear in.
    """
    optimized = optimize_graph(layer.to_graph(input_shape), "prepare")
    graph = optimized.graph
    weights: dict[str, Value] = {}
    scaled: dict[Value, Value] = {}
    for name, alone in adapters(layer).items():
        leaves = [leaf for slot in find_slots(alone) for leaf in _linear_parameters(slot, graph)]
        rest = optimize_graph(_without_adapter(layer, name).to_graph(input_shape), "prepare").graph
        if without(graph, leaves).outputs != rest.outputs:
            raise ValueError(f"adapter {name!r} does more than to add what is linear in some of its own parameters")
        weights[name] = apply(Parameter(f"{name}.weight", tensor(leaves[0].dtype), False))
        scaled |= {leaf: leaf * weights[name] for leaf in leaves}
    given = {f"{name}.weight": np.ones((), weight.dtype) for name, weight in weights.items()}
    finished = optimize_graph(exchanged(graph, scaled), "finish").graph
    described = scaled_into(describe_adapters(layer), optimized)
    return Deployment(finished, optimized.state(layer.state) | given, overridable=tuple(given), described=described)


def _linear_parameters(slot: Slot, graph: Graph) -> Sequence[Value]:
    """The parameters of a branch, from the last, that what it gives is linear in together."""
    found: list[Value] = []
    for own in reversed(slot.branch.get_parameter_names()):
        leaf = graph.parameters.get(f"{slot.path}.{own}")
        if leaf is not None and is_linear_in(graph, [*found, leaf]):
            found.append(leaf)
    if not found:
        raise ValueError(f"{slot.path}: what {slot.adapter.layer_name} gives is linear in no parameter of its own")
    return found


def _without_adapter(layer: Layer, name: str) -> Layer:
    if not isinstance(layer, AdaptedModel):
        return cleared(layer)
    return layer.sharing({other: layer.adapters[other] for other in layer.active_adapters if other != name})
