"""One model for any adapter, which is given when it runs: as an adapter file, or as further inputs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from lora_graph import checks
from lora_graph.adapters.pair import LowRankPair
from lora_graph.ir import dims
from lora_graph.ir.graph import Graph
from lora_graph.ir.leaves import Input, Parameter
from lora_graph.ir.types import Array, TensorType, type_of
from lora_graph.ir.value import Value, apply
from lora_graph.layers.layer import Layer
from lora_graph.onnx.forms.deployment import Deployment
from lora_graph.onnx.forms.slots import InputShape, Prepared, Slot, adapters, prepare, require_base, symbolic, template
from lora_graph.rewrite.pipeline import optimize_graph


def hot_swap(layer: Layer, input_shape: InputShape) -> Deployment:
    """The base, with matrices of adapters as overridable initializers of any rank that change nothing by default.

    By default it computes exactly what the base does; up to rounding where adapters change a weight itself (those of
    recurrent layers, or LoKr at a convolution), for ONNX Runtime has other kernels for weights that are not constant.
    """
    model = template(layer)
    prepared = prepare(model, input_shape)
    leaves = {name: apply(Parameter(name, kind, False)) for name, kind in _types(prepared).items()}
    graph = _finished(model, prepared, input_shape, leaves)
    names = tuple(leaves)
    return Deployment(graph, prepared.state | _defaults(prepared), names, names)


def web(layer: Layer, input_shape: InputShape) -> Deployment:
    """As ``hot_swap``, with the matrices as required inputs, of rank 0 or more."""
    model = template(layer)
    prepared = prepare(model, input_shape)
    leaves = {name: apply(Input(name, kind)) for name, kind in _types(prepared).items()}
    return Deployment(_finished(model, prepared, input_shape, leaves), prepared.state, tuple(leaves))


def swapped(layer: Layer, name: str | None) -> dict[str, Array]:
    """What the adapter ``name`` of ``layer`` puts into the slots of these forms; nothing where it has no branch.

    ``name`` may be None where there is only one.
    """
    available = adapters(layer)
    if name is None and len(available) != 1:
        raise ValueError(f"name must say which adapter is meant: {', '.join(available) or 'none takes part'}")
    chosen = next(iter(available)) if name is None else checks.choice("name", name, list(available))
    prepared = prepare(template(layer))
    types, binding = _types(prepared), {}  # type: tuple[dict[str, TensorType], dict[str, int]]
    arrays = prepare(available[chosen]).arrays()
    for label, array in arrays.items():
        wanted = types.get(label)
        if wanted is None or wanted.dtype != array.dtype or not dims.fits(wanted.shape, array.shape, binding):
            raise ValueError(f"adapter {chosen!r}: {label} is {type_of(array)}, the model that is for all has {wanted}")
    return _defaults(prepared) | arrays


def _types(prepared: Prepared) -> dict[str, TensorType]:
    """The type of every slot's parameters, with a name for each rank."""
    found = {}
    for number, slot in enumerate(prepared.slots):
        for own, shape in slot.shapes(dims.dim(f"rank_{number}")).items():
            found[slot.parameters[own]] = TensorType(prepared.leaf(slot, own).dtype, shape)
    return found


def _finished(layer: Layer, prepared: Prepared, input_shape: InputShape, leaves: dict[str, Value]) -> Graph:
    require_base(layer, prepared, input_shape)
    graph = symbolic(prepared, leaves)
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
