"""The forms of one fixed adapter: beside its base, or folded into it."""

from __future__ import annotations

from lora_graph.adapters.adapted import AdaptedModel
from lora_graph.errors import MergeError
from lora_graph.layers.layer import Layer
from lora_graph.onnx.forms.deployment import Deployment
from lora_graph.onnx.forms.describe import describe_adapters, scaled_into, without_parameters
from lora_graph.onnx.forms.slots import InputShape
from lora_graph.rewrite.pipeline import optimize_graph


def parallel(layer: Layer, input_shape: InputShape) -> Deployment:
    """Adapters beside their base, with the scale s folded into their matrices."""
    optimized = optimize_graph(layer.to_graph(input_shape), "export")
    described = scaled_into(describe_adapters(layer), optimized)
    return Deployment(optimized.graph, optimized.state(layer.state), described=described)


def merged(layer: Layer, input_shape: InputShape) -> Deployment:
    """Adapters folded into their base; MergeError where that is not exact."""
    adapters = describe_adapters(layer)
    if isinstance(layer, AdaptedModel):
        layer = layer.merge_to_base()
    optimized = optimize_graph(layer.to_graph(input_shape), "deploy")
    left = [name for adapter in adapters for name in adapter["parameters"] if name in optimized.graph.parameters]
    if left:
        reasons = "; ".join(optimized.report.reasons)
        why = f" ({reasons})" if reasons else ""
        raise MergeError(
            f"{left[0]} of {layer.layer_name} cannot be merged exactly: its delta does not stand beside a linear weight"
            f"{why}; build the adapter with site='weight', or export form='parallel'"
        )
    return Deployment(optimized.graph, optimized.state(layer.state), described=without_parameters(adapters))
