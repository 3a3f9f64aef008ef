"""Several adapters at once, each with a weight that is given when the model runs."""

from __future__ import annotations

import numpy as np

from lora_graph.ir.graph import Graph
from lora_graph.ir.leaves import Parameter
from lora_graph.ir.types import tensor
from lora_graph.ir.value import Value, apply
from lora_graph.layers.layer import Layer
from lora_graph.onnx.forms.deployment import Deployment
from lora_graph.onnx.forms.describe import describe_adapters, scaled_into
from lora_graph.onnx.forms.neutral import obstacle
from lora_graph.onnx.forms.slots import InputShape, Slot, adapters, find_slots
from lora_graph.rewrite.fold import exchanged
from lora_graph.rewrite.pipeline import optimize_graph


def weighted(layer: Layer, input_shape: InputShape) -> Deployment:
    """base(x) + Σ wₖ deltaₖ(x), with the scalar wₖ as an overridable initializer ``<adapter>.weight`` of value 1."""
    optimized = optimize_graph(layer.to_graph(input_shape), "prepare")
    graph, state = optimized.graph, optimized.state(layer.state)
    scaled: dict[Value, Value] = {}
    weights: dict[str, Value] = {}
    for name, alone in adapters(layer).items():
        for slot in find_slots(alone):
            leaf = _linear_parameter(slot, graph)
            weights[name] = apply(Parameter(f"{name}.weight", tensor(leaf.dtype), False))
            scaled[leaf] = leaf * weights[name]
    given = {f"{name}.weight": np.ones((), weight.dtype) for name, weight in weights.items()}
    finished = optimize_graph(exchanged(graph, scaled), "finish").graph
    described = scaled_into(describe_adapters(layer), optimized)
    return Deployment(finished, state | given, overridable=tuple(given), described=described)


def _linear_parameter(slot: Slot, graph: Graph) -> Value:
    """The last parameter of a branch that all it gives is linear in, so that a factor there scales the whole."""
    for own in reversed(slot.branch.get_parameter_names()):
        leaf = graph.parameters.get(f"{slot.path}.{own}")
        if leaf is not None and obstacle(graph, [leaf], linear=True) is None:
            return leaf
    raise ValueError(f"{slot.path}: what a {slot.adapter.family} adapter gives is linear in no parameter of its own")
