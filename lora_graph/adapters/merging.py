"""Merging back into a layer: rewrite the adapter's graph, then read the new weights off it."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import numpy as np

from lora_graph.errors import MergeError
from lora_graph.interpret import evaluate
from lora_graph.ir.graph import Graph
from lora_graph.ir.leaves import Parameter
from lora_graph.ir.types import Array
from lora_graph.ir.value import Value
from lora_graph.layers.layer import Layer
from lora_graph.ops.shape import Reshape, Transpose, inverse
from lora_graph.rewrite.pipeline import optimize_graph
from lora_graph.rewrite.rule import Facts


def merged_layer(adapter: Layer, base: Layer) -> Layer:
    """A copy of ``base`` whose weights make it compute what ``adapter`` computes in evaluation."""
    layer = copy.deepcopy(base)
    layer.assign(merged_arrays(adapter, base))
    return layer


def merged_arrays(adapter: Layer, base: Layer) -> dict[str, Array]:
    """Those parameters of ``base`` that have to change, by name, for it to compute what ``adapter`` does."""
    merged = optimize_graph(adapter.to_graph(), "merge")
    plain = optimize_graph(base.to_graph(), "merge").graph
    found = solve(plain.outputs, merged.graph.outputs)
    if found is None:
        why = "; ".join(merged.report.reasons) or "its graph does not reduce to that of the base"
        raise MergeError(f"{adapter.layer_name} cannot be merged into {base.layer_name}: {why}")
    changed = {name: value for name, value in found.items() if not isinstance(value.op, Parameter)}
    arrays = evaluate(Graph((), changed, name="merged weights"), {}, adapter.state)
    return {name: np.array(array, order="C") for name, array in arrays.items()}


def solve(pattern: Mapping[str, Value], target: Mapping[str, Value]) -> dict[str, Value] | None:
    """What the parameters of ``pattern`` have to be for it to become ``target``; None if nothing does it.

    Both are the outputs of a graph by name.
    """
    found: dict[str, Value] = {}
    facts = Facts("all")
    pairs = [(want, target[name]) for name, want in pattern.items()]
    seen: set[tuple[Value, Value]] = set()
    while pairs:
        want, have = pairs.pop()
        if (want, have) in seen:  # residual connections lead to the same place on many paths
            continue
        seen.add((want, have))
        if isinstance(want.op, Parameter):
            if not facts.is_static(have) or want.type != have.type or found.setdefault(want.op.label, have) is not have:
                return None
        elif want.op == have.op and len(want.operands) == len(have.operands):
            pairs.extend(_paired(want, have))
        elif isinstance(want.op, Transpose):
            pairs.append((want.operands[0], have.transpose(inverse(want.op.perm))))
        elif isinstance(want.op, Reshape):
            pairs.append((want.operands[0], have.reshape(want.operands[0].shape)))
        else:
            return None
    return found


def _paired(want: Value, have: Value) -> list[tuple[Value, Value]]:
    """Operands matched up; those of a commutative op by their ops, in case a rule exchanged them."""
    first, second = want.operands, have.operands
    if want.op.commutative and len(first) == 2:
        straight = sum(type(a.op) is type(b.op) for a, b in zip(first, second, strict=True))
        crossed = sum(type(a.op) is type(b.op) for a, b in zip(first, second[::-1], strict=True))
        if crossed > straight:
            second = second[::-1]
    return list(zip(first, second, strict=True))
