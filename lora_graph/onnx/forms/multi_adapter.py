"""Many adapters in one model, and for each sample of a batch the number of the one that it takes.

The matrices of all adapters are overridable initializers, so that a file with more of them can take their place. The
number -1 stands for no adapter; every other one that is out of range is an error when the model runs.
"""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np

from lora_graph import checks
from lora_graph.adapters.pair import LowRankPair
from lora_graph.ir import dims
from lora_graph.ir.leaves import Input, constant
from lora_graph.ir.types import Array, tensor
from lora_graph.ir.value import Value, apply
from lora_graph.layers.layer import Layer
from lora_graph.onnx.forms.deployment import Deployment
from lora_graph.onnx.forms.describe import describe_adapters, without_parameters
from lora_graph.onnx.forms.ranks import rank_of
from lora_graph.onnx.forms.slots import InputShape, Prepared, Slot, adapters, prepare, require_base, template
from lora_graph.onnx.forms.stacks import Columns, Layout, Rows, Stack
from lora_graph.ops.convolution import Conv
from lora_graph.ops.functions import less
from lora_graph.ops.gather import Gather
from lora_graph.ops.linalg import MatMul
from lora_graph.ops.select import where
from lora_graph.rewrite import cost
from lora_graph.rewrite.pipeline import optimize_graph
from lora_graph.rewrite.rebuild import rebuilt

INPUT, ORDER = "adapter", "lora_graph.order"
"""The input with the number of each sample's adapter, and the metadata that names adapters in order."""

LAYOUTS: dict[str, Layout] = {"columns": Columns(), "rows": Rows()}

GATHER, SMALL = 8, 2
"""What it costs to gather a number for a sample, and to multiply by it there, in multiplications of a large product.

Fitted to ONNX Runtime 1.31 on one thread: at 768 features and rank 8, batches of 8 and 64 take the same time in both
layouts with 4 to 10 adapters; with 16 or 64 positions a sample, with 2 to 3. ``python -m benchmarks.deploy`` measures
both layouts with 16 adapters.
"""

OUT_OF_RANGE = 2**62
"""A number that no stack has, for what would count from its end."""


def multi_adapter(layer: Layer, input_shape: InputShape, layout: str | None = None) -> Deployment:
    """One model with all adapters of ``layer``, and an int64 input ``adapter`` with the number of each sample's."""
    prepared, stacks = _stacks(layer, input_shape)
    chosen = _layout(layout, stacks, prepared)
    arrays = chosen.arrays(stacks)
    index: Value = apply(Input(INPUT, tensor(np.int64, (_batch(prepared),))))
    row = where(less(index, -1), constant(OUT_OF_RANGE, np.int64), index + 1)
    builders = chosen.builders(stacks, row)
    graph = rebuilt(prepared.graph, lambda value, operands: builders[value](*operands) if value in builders else None)
    graph = optimize_graph(replace(graph, inputs=(*graph.inputs, index)), "finish").graph
    names = tuple(arrays)
    described = without_parameters(describe_adapters(layer))
    order = {ORDER: json.dumps(list(adapters(layer)))}
    return Deployment(graph, prepared.state | arrays, names, names, described, order)


def stacked(layer: Layer, name: str | None, layout: str | None = None) -> dict[str, Array]:
    """The matrices of all adapters of ``layer`` as such a model takes them; ``name`` has to be None."""
    if name is not None:
        raise ValueError(f"name must be None: a file for this form holds all adapters, not only {name!r}")
    prepared, stacks = _stacks(layer, None)
    return _layout(layout, stacks, prepared).arrays(stacks)


def _stacks(layer: Layer, input_shape: InputShape) -> tuple[Prepared, list[Stack]]:
    model = template(layer)
    prepared = prepare(model, input_shape)
    require_base(model, prepared, input_shape)
    own = [prepare(alone, input_shape).arrays() for alone in adapters(layer).values()]
    return prepared, [_stack(slot, prepared, own) for slot in prepared.slots]


def _stack(slot: Slot, prepared: Prepared, own: list[dict[str, Array]]) -> Stack:
    """ValueError where the branch is no pair, or does not stand beside one sample a row."""
    if not isinstance(slot.branch, LowRankPair):
        raise ValueError(f"{slot.path}: adapters of the family {slot.adapter.family} have no rank to stack them by")
    if [*slot.parameters] != ["A", "B"]:
        raise ValueError(f"{slot.path} has {', '.join(slot.parameters)}, and only pairs of A and B can be stacked")
    leaves = {own: prepared.leaf(slot, own) for own in slot.parameters}
    inner, outer = (tuple(v for v in prepared.graph.values if leaf in v.operands) for leaf in leaves.values())
    for value in inner:
        if not isinstance(value.op, MatMul | Conv | Gather) or value.shape[0] != _batch(prepared) or value in outer:
            raise ValueError(
                f"{slot.path}: what A gives is {value.type}, which is not one sample a row, so samples cannot have "
                "adapters of their own there"
            )
    return Stack(slot, leaves, inner, outer, tuple(_own(slot, arrays) for arrays in own))


def _own(slot: Slot, arrays: dict[str, Array]) -> dict[str, Array] | None:
    """What an adapter has in ``slot``, None for nothing; ValueError where it is a pair of another kind."""
    found = {own: arrays[name] for own, name in slot.parameters.items() if name in arrays}
    if not found:
        return None
    shapes = {own: array.shape for own, array in found.items()}
    if shapes.keys() != slot.parameters.keys() or slot.shapes(rank_of(slot, found)) != shapes:
        raise ValueError(f"{slot.name} is of another kind in one adapter than in others: {shapes}")
    return found


def _batch(prepared: Prepared) -> dims.Dim:
    return prepared.graph.inputs[0].shape[0]


def _layout(wanted: str | None, stacks: list[Stack], prepared: Prepared) -> Layout:
    """The layout of this name, or the cheaper one; ``rows`` is there for products of matrices only."""
    odd = next((stack.slot for stack in stacks if not stack.is_product), None)
    if wanted is not None:
        checks.choice("layout", wanted, list(LAYOUTS))
        if wanted == "rows" and odd is not None:
            raise ValueError(f"layout='rows' is for products of matrices, and {odd.path} is none; use 'columns'")
        return LAYOUTS[wanted]
    if odd is not None:
        return LAYOUTS["columns"]
    samples = cost.nominal(_batch(prepared))
    columns = rows = 0
    for stack in stacks:
        width, ranks = stack.slot.site.in_features + stack.slot.site.out_features, stack.ranks
        positions = sum(cost.nominal(dims.product(inner.shape[:-1])) for inner in stack.inner)
        columns += width * positions * sum(ranks)
        rows += width * max(ranks) * (GATHER * samples * len(stack.inner) + SMALL * positions)
    return LAYOUTS["columns" if columns <= rows else "rows"]
