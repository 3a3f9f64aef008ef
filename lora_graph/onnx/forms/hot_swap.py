"""One model for any adapter, which is given when it runs: as an adapter file, or as further inputs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from lora_graph import checks
from lora_graph.adapters.pair import LowRankPair
from lora_graph.ir import dims
from lora_graph.ir.graph import Graph
from lora_graph.ir.leaves import Input, Parameter
from lora_graph.ir.types import Array, TensorType
from lora_graph.ir.value import Value, apply
from lora_graph.layers.layer import Layer
from lora_graph.onnx.forms.deployment import Deployment
from lora_graph.onnx.forms.neutral import obstacle
from lora_graph.onnx.forms.slots import InputShape, Prepared, Slot, adapters, prepare, symbolic, template
from lora_graph.rewrite.pipeline import optimize_graph


def hot_swap(layer: Layer, input_shape: InputShape) -> Deployment:
    """The base, with matrices of adapters as overridable initializers of any rank that change nothing by default.

    By default it computes exactly what the base does; up to rounding where adapters change a weight itself (those of
    recurrent layers, or LoKr at a convolution), for ONNX Runtime has other kernels for weights that are not constant.
    """
    prepared = prepare(template(layer), input_shape)
    leaves = {name: apply(Parameter(name, kind, False)) for name, kind in _types(prepared).items()}
    graph = _finished(prepared, leaves)
    names = tuple(leaves)
    return Deployment(graph, prepared.state | _defaults(prepared), names, names)


def web(layer: Layer, input_shape: InputShape) -> Deployment:
    """As ``hot_swap``, with the matrices as required inputs, of rank 0 or more."""
    prepared = prepare(template(layer), input_shape)
    leaves = {name: apply(Input(name, kind)) for name, kind in _types(prepared).items()}
    return Deployment(_finished(prepared, leaves), prepared.state, tuple(leaves))


def swapped(layer: Layer, name: str | None) -> dict[str, Array]:
    """What the adapter ``name`` of ``layer`` puts into the slots of these forms; nothing where it has no branch.

    ``name`` may be None where there is only one.
    """
    available = adapters(layer)
    if name is None and len(available) != 1:
        raise ValueError(f"name must say which adapter is meant: {', '.join(available) or 'none takes part'}")
    chosen = next(iter(available)) if name is None else checks.choice("name", name, list(available))
    found = _defaults(prepare(template(layer)))
    arrays = prepare(available[chosen]).arrays()
    for label, array in arrays.items():
        if found[label].ndim != array.ndim or found[label].dtype != array.dtype:
            raise ValueError(f"adapter {chosen!r}: {label} is {array.dtype}{list(array.shape)}, which fits no slot")
    return found | arrays


def _types(prepared: Prepared) -> dict[str, TensorType]:
    """The type of every slot's parameters, with a name for each rank."""
    found = {}
    for number, slot in enumerate(prepared.slots):
        for own, shape in slot.shapes(dims.dim(f"rank_{number}")).items():
            found[slot.parameters[own]] = TensorType(prepared.leaf(slot, own).dtype, shape)
    return found


def _finished(prepared: Prepared, leaves: dict[str, Value]) -> Graph:
    """The graph with ``leaves`` for the parameters of slots; ValueError if zeros there would not leave the base."""
    graph = symbolic(prepared, leaves)
    at = obstacle(graph, leaves.values())
    if at is not None:
        kinds = ", ".join(dict.fromkeys(slot.adapter.layer_name for slot in prepared.slots))
        raise ValueError(
            f"this form starts from the base alone, but what {kinds} gives where all is zero goes through "
            f"{at.op.name} {at.result_type}, which need not leave the base as it is"
        )
    inputs = [leaf for leaf in leaves.values() if isinstance(leaf.op, Input)]
    return optimize_graph(replace(graph, inputs=(*graph.inputs, *inputs)), "finish").graph


def _defaults(prepared: Prepared) -> dict[str, Array]:
    """Arrays that change nothing, of the smallest rank there is."""
    return {slot.parameters[own]: array for slot in prepared.slots for own, array in _empty(slot, prepared).items()}


def _empty(slot: Slot, prepared: Prepared) -> dict[str, Array]:
    shapes = slot.shapes(slot.smallest_rank)
    if not isinstance(slot.branch, LowRankPair):
        shapes = {own: prepared.leaf(slot, own).shape for own in shapes}
    return {own: np.zeros(dims.sizes(shape, {}), prepared.leaf(slot, own).dtype) for own, shape in shapes.items()}
