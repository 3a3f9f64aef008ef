"""One model for every rank that a DyLoRA adapter was trained for; the rank is an input."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np

from lora_graph.adapters.adapted import sharing_copy
from lora_graph.adapters.dylora import DyLoRAAdapter
from lora_graph.ir import dims
from lora_graph.ir.dims import Dim
from lora_graph.ir.graph import Graph
from lora_graph.ir.leaves import Input, Parameter
from lora_graph.ir.types import Array, tensor
from lora_graph.ir.value import Value, apply
from lora_graph.layers.layer import Layer
from lora_graph.onnx.forms.deployment import Deployment
from lora_graph.onnx.forms.describe import describe_adapters, scaled_into
from lora_graph.onnx.forms.ranks import rank_axis
from lora_graph.onnx.forms.slots import InputShape, Slot, find_slots
from lora_graph.ops.gather import gather
from lora_graph.ops.prefix import slice_to
from lora_graph.ops.select import clip
from lora_graph.rewrite.fold import exchanged
from lora_graph.rewrite.pipeline import optimize_graph

INPUT, RANKS = "rank", "lora_graph.ranks"
"""The input with the rank, and the metadata that lists the ranks of every adapter by the path of the adapter."""


def dynamic_rank(layer: Layer, input_shape: InputShape) -> Deployment:
    """``layer`` with an int64 scalar input ``rank``, by which A and B are cut when the model runs.

    A rank that is not among an adapter's ``active_ranks`` becomes the next one below, or the lowest one where there is
    none below. s is what it is for the rank that is taken: alpha / max_rank, or alpha / rank with ``per_rank`` scaling.
    """
    twin = sharing_copy(layer)
    slots = [slot for slot in find_slots(twin) if isinstance(slot.adapter, DyLoRAAdapter)]
    if not slots:
        raise ValueError(f"{layer.layer_name} has no DyLoRA adapter that takes part, so its rank is fixed")
    for slot in slots:
        _dylora(slot).current_deployment_rank = _dylora(slot).active_ranks[-1]
    optimized = optimize_graph(twin.to_graph(input_shape), "prepare")
    state = optimized.state(twin.state)
    wanted: Value = apply(Input(INPUT, tensor(np.int64)))
    taken: dict[str, tuple[Value, Dim]] = {}
    cuts: dict[Value, Value] = {}
    for slot in slots:
        path = slot.path.rpartition(".")[0]
        if path not in taken:
            taken[path] = _taken(_dylora(slot), path, wanted, state).reshape(1), dims.dim(f"rank_{len(taken)}")
        for own in slot.parameters:
            leaf = optimized.graph.parameters[f"{slot.path}.{own}"]
            cuts[leaf] = _cut(slot, own, leaf, *taken[path])
    graph = _finished(exchanged(optimized.graph, cuts), wanted)
    ranks = {slot.path.rpartition(".")[0]: list(_dylora(slot).active_ranks) for slot in slots}
    described = scaled_into(describe_adapters(twin), optimized)
    return Deployment(graph, state, described=described, extra={RANKS: json.dumps(ranks)})


def _finished(graph: Graph, wanted: Value) -> Graph:
    return optimize_graph(replace(graph, inputs=(*graph.inputs, wanted)), "finish").graph


def _dylora(slot: Slot) -> DyLoRAAdapter:
    assert isinstance(slot.adapter, DyLoRAAdapter)
    return slot.adapter


def _taken(adapter: DyLoRAAdapter, path: str, wanted: Value, state: dict[str, Array]) -> Value:
    """The active rank that is taken for the ``wanted`` one: looked up, unless there are no gaps between them."""
    low, high = adapter.active_ranks[0], adapter.active_ranks[-1]
    within: Value = clip(wanted, low, high)
    if len(adapter.active_ranks) == high - low + 1:
        return within
    table = f"{path}.ranks" if path else "ranks"
    positions = np.searchsorted(adapter.active_ranks, np.arange(high + 1), side="right") - 1
    state[table] = np.asarray(adapter.active_ranks, np.int64)[np.maximum(positions, 0)]
    found: Value = gather(apply(Parameter(table, tensor(np.int64, (high + 1,)), False)), within)
    return found


def _cut(slot: Slot, own: str, leaf: Value, rank: Value, size: Dim) -> Value:
    """The first ``rank`` components of a matrix that has the scale of its whole rank."""
    axis, groups = rank_axis(slot, own)
    if groups == 1:
        part = slice_to(leaf, rank, size, axis)
    else:
        before, after = leaf.shape[:axis], leaf.shape[axis + 1 :]
        apart = leaf.reshape((*before, groups, leaf.shape[axis] // groups, *after))
        part = slice_to(apart, rank, size, axis + 1).reshape((*before, size * groups, *after))
    adapter = _dylora(slot)
    if own == "B" and adapter.rank_scaling == "per_rank":
        part = part * (float(adapter.active_ranks[-1]) / rank.astype(leaf.dtype))
    return part
