"""Biases of zeros: the optimizer of PyTorch's dynamo exporter leaves them out, and notes its rule at the node."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from lora_graph.adapters.site import uses
from lora_graph.interop.modules import Weight, weights_of
from lora_graph.interop.separate import is_wanted
from lora_graph.interop.surgery import rebuilt
from lora_graph.ir.leaves import Parameter, parameter
from lora_graph.ir.value import Value, apply
from lora_graph.layers.imported import ImportedLayer
from lora_graph.layers.layer import Layer
from lora_graph.ops.convolution import Conv

RULE = "RemoveOptionalBias"


def with_biases(model: Layer, wanted: Collection[str]) -> Layer:
    """``model`` with biases of zeros where they were left out and are ``wanted``, as ``fc1.bias`` may be."""
    if not isinstance(model, ImportedLayer):
        return model
    missing = {weight.name: weight for weight in weights_of(model) if _lost_its_bias(weight, wanted)}
    added = {_name(weight): np.zeros(weight.shape[0], weight.array.dtype) for weight in missing.values()}

    def biased(value: Value, operands: list[Value]) -> Value | None:
        for use in uses(value):
            if isinstance(use.weight.op, Parameter) and use.weight.op.label in missing:
                zeros = added[_name(missing[use.weight.op.label])]
                bias = parameter(_name(missing[use.weight.op.label]), zeros.dtype, zeros.shape)
                return (
                    apply(value.op, *operands, bias)
                    if isinstance(value.op, Conv)
                    else apply(value.op, *operands) + bias
                )
        return None

    return rebuilt(model, biased, added) if missing else model


def _lost_its_bias(weight: Weight, wanted: Collection[str]) -> bool:
    is_known = len({*weight.scopes}) == 1 and weight.target.kind in ("linear", "convolution")
    was_removed = not weight.bias and any(rule.startswith(RULE) for rule in weight.rules)
    return is_known and was_removed and is_wanted(_name(weight), wanted)


def _name(weight: Weight) -> str:
    return f"{weight.scopes[0]}.bias"
