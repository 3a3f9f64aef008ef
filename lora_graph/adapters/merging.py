"""Merging back into a layer: rewrite the adapter's graph, then read the new weights off it."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping

import numpy as np

from lora_graph.adapters.site import Use, labelled_uses
from lora_graph.errors import MergeError
from lora_graph.interpret import evaluate
from lora_graph.ir.graph import Graph, replace
from lora_graph.ir.leaves import Parameter
from lora_graph.ir.types import Array
from lora_graph.ir.value import Value, apply
from lora_graph.layers.imported import ImportedLayer
from lora_graph.layers.layer import Layer
from lora_graph.layers.parameters import Slot
from lora_graph.ops.shape import Reshape, Transpose, inverse
from lora_graph.rewrite.pipeline import optimize_graph
from lora_graph.rewrite.rule import Facts


def merged_layer(adapter: Layer, base: Layer) -> Layer:
    """A copy of ``base`` whose weights make it compute what ``adapter`` computes in evaluation."""
    layer = copy.deepcopy(base)
    arrays = merged_arrays(adapter, base)
    untie(layer, arrays)
    layer.assign(arrays)
    return layer


def merged_arrays(adapter: Layer, base: Layer) -> dict[str, Array]:
    """Those parameters of ``base`` that have to change, by name, for it to compute what ``adapter`` does.

    A name may be that of a further way in which a weight is used, which :func:`untie` makes a parameter.
    """
    merged = optimize_graph(adapter.to_graph(), "merge")
    plain = optimize_graph(separated(base.to_graph()), "merge").graph
    found = solve(plain.outputs, merged.graph.outputs)
    if found is None:
        why = "; ".join(merged.report.reasons) or "its graph does not reduce to that of the base"
        raise MergeError(f"{adapter.layer_name} cannot be merged into {base.layer_name}: {why}")
    further = further_uses(base.to_graph())
    changed = {
        name: value
        for name, value in found.items()
        if not isinstance(value.op, Parameter) and (name not in further or found.get(further[name]) is not value)
    }
    for name in further.keys() & found.keys() - changed.keys():
        if further[name] in changed and found[name] is not changed[further[name]]:
            changed[name] = found[name]  # the weight changes where it is used in another way
    if changed.keys() & further.keys() and not isinstance(base, ImportedLayer):
        (name, *_) = sorted(changed.keys() & further.keys())
        raise MergeError(
            f"{adapter.layer_name} cannot be merged into {base.layer_name}, which uses {further[name]} in several ways "
            "that would need weights of their own"
        )
    arrays = evaluate(Graph((), changed, name="merged weights"), {}, adapter.state)
    return {name: np.array(array, order="C") for name, array in arrays.items()}


def further_uses(graph: Graph) -> dict[str, str]:
    """What the further ways are called in which weights are used, and the names of those weights."""
    labels = {label: use.weight for _, use, label in labelled_uses(graph.values, has_pairs=True)}
    names = {label: w.op.label for label, w in labels.items() if isinstance(w.op, Parameter)}
    return {label: name for label, name in names.items() if label != name}


def separated(graph: Graph, wanted: Collection[str] | None = None) -> Graph:
    """``graph`` with a parameter for each further way in which a weight is used, or for those ``wanted``."""
    further = further_uses(graph)
    places: dict[Value, list[tuple[Use, Value]]] = {}
    for value, use, label in labelled_uses(graph.values, has_pairs=True):
        if label in further and (wanted is None or label in wanted):
            assert isinstance(use.weight.op, Parameter)
            own = apply(Parameter(label, use.weight.type, use.weight.op.trainable))
            places.setdefault(value, []).append((use, own))
    if not places:
        return graph
    new: dict[Value, Value] = {}
    for value in graph.values:
        operands = [new[operand] for operand in value.operands]
        for use, own in places.get(value, ()):
            operands[use.position] = replace([operands[use.position]], {use.weight: own})[0]
        new[value] = value if tuple(operands) == value.operands else apply(value.op, *operands)
    outputs = {name: new[value] for name, value in graph.outputs.items()}
    notes = {new[value]: note for value, note in graph.notes.items() if value in new}
    return Graph(graph.inputs, outputs, notes, graph.name)


def untie(layer: Layer, labels: Collection[str]) -> Graph | None:
    """Give those ``labels`` that are no parameters of ``layer`` yet, but further uses of one, parameters of their own.

    They hold the same arrays at first. The graph from before comes back, None where nothing changed.
    """
    slots = layer.slots()
    new = [label for label in labels if label not in slots]
    if not new:
        return None
    assert isinstance(layer, ImportedLayer)
    before, further = layer.graph, further_uses(layer.graph)
    own = {label: Slot(slots[further[label]][0].array, slots[further[label]][0].trainable) for label in new}
    layer.exchange(separated(before, new), own)
    return before


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
