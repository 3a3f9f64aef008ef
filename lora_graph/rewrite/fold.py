"""Computing ahead of time: constants in the graph, and weights in a prelude."""

from __future__ import annotations

import time
from collections.abc import Mapping

import numpy as np

from lora_graph.interpret import evaluate
from lora_graph.ir.graph import Graph, replace
from lora_graph.ir.leaves import CONSTANT_LIMIT, Constant, Parameter, constant
from lora_graph.ir.types import Array, TensorType
from lora_graph.ir.value import Value, apply, topological
from lora_graph.rewrite import cost
from lora_graph.rewrite.record import PassRecord
from lora_graph.rewrite.rule import Facts, Origin, has_symbolic_size

State = Mapping[str, Array]


def fold_constants(graph: Graph) -> tuple[Graph, PassRecord]:
    """Every op on constants alone is computed, if the result still is a constant (at most 1 KiB)."""
    started = time.perf_counter()
    known: dict[Value, Value] = {}
    for value in graph.values:
        ops = [known.get(operand, operand).op for operand in value.operands]
        arrays = [op.value for op in ops if isinstance(op, Constant)]
        if ops and len(arrays) == len(ops) and _is_known(value):
            with np.errstate(all="ignore"):
                known[value] = constant(np.asarray(value.op.evaluate(*arrays)))
    new = exchanged(graph, known) if known else graph
    fired = {"fold": len(known)} if known else {}
    return new, PassRecord("fold constants", graph, new, fired, seconds=time.perf_counter() - started)


def hoist(graph: Graph, facts: Facts) -> tuple[Graph, Graph | None, PassRecord]:
    """Every largest subgraph that ``facts`` let be computed from weights alone becomes a new parameter.

    Returns the graph that is left and the *prelude*, the graph that computes the new parameters from the old state
    (None if there is nothing to compute). A new parameter keeps the name of the old one that it replaces.
    """
    started = time.perf_counter()
    wanted = _hoistable(graph, facts)
    if not wanted:
        return graph, None, PassRecord("hoist weights", graph, graph, seconds=time.perf_counter() - started)
    remaining = topological(graph.outputs.values(), stop=set(wanted).__contains__)
    taken = {value.op.label for value in remaining if isinstance(value.op, Parameter)}
    computed: dict[str, Value] = {}
    mapping: dict[Value, Value] = {}
    for value in wanted:
        source = _namesake(value)
        label = source.label
        while label in taken:
            label += ".folded"
        taken.add(label)
        computed[label] = value
        mapping[value] = apply(Parameter(label, value.type, source.trainable))
    new = exchanged(graph, mapping)
    record = PassRecord("hoist weights", graph, new, {"hoist": len(wanted)}, seconds=time.perf_counter() - started)
    return new, Graph((), computed, name="prelude"), record


def run_prelude(prelude: Graph | None, graph: Graph, state: State) -> dict[str, Array]:
    """The state of ``graph``: computed by the prelude, or taken from ``state``."""
    computed = evaluate(prelude, {}, state) if prelude is not None else {}
    return {name: computed[name] if name in computed else state[name] for name in graph.parameters}


def _hoistable(graph: Graph, facts: Facts) -> list[Value]:
    """Foldable Values that something else than a foldable one uses; of views only those that are smaller than all."""
    candidates: dict[Value, None] = {}
    kept = set(graph.outputs.values())
    for value in graph.values:
        if not (value.operands and facts.is_foldable(value)):
            kept.update(value.operands)
    for value in graph.values:
        if (
            value in kept
            and value.operands
            and facts.is_foldable(value)
            and facts.origin(value) is not Origin.CONSTANTS
        ):
            value = _computed(value)
            if value.operands:
                candidates[value] = None
    return list(candidates)


def _computed(value: Value) -> Value:
    """What ``value`` is a view of, all of it; with the views that give it as many axes as its namesake has."""
    views = []
    while value.op.view and cost.size(value.type) >= cost.size(value.operands[0].type):
        views.append(value)
        value = value.operands[0]
    if not views or not value.operands:
        return value
    axes = len(_namesake(value).type.shape)
    return next((view for view in [value, *reversed(views)] if view.rank == axes), value)


def _namesake(value: Value) -> Parameter:
    """The parameter whose place a computed weight takes: the first one of the same number of elements, or the first."""
    leaves = [leaf.op for leaf in topological([value]) if isinstance(leaf.op, Parameter)]
    same = [leaf for leaf in leaves if leaf.type.size == value.type.size]
    return (same or leaves)[0]


def _is_known(value: Value) -> bool:
    """Whether ``value`` is a small tensor of which no attribute is a dimension yet to be known."""
    kind = value.result_type
    if not value.op.is_pure or not isinstance(kind, TensorType) or not kind.is_static:
        return False
    size = kind.size
    if not isinstance(size, int) or size * kind.dtype.itemsize > CONSTANT_LIMIT:
        return False
    return not has_symbolic_size(value.op)


def exchanged(graph: Graph, mapping: Mapping[Value, Value]) -> Graph:
    """``graph`` with Values exchanged, and the notes of those that were built again."""
    noted = [value for value in graph.values if value in graph.notes]
    outputs = replace([*graph.outputs.values(), *noted], mapping)
    renewed = zip(noted, outputs[len(graph.outputs) :], strict=True)
    notes = {after: graph.notes[before] for before, after in renewed}
    return graph.with_outputs(dict(zip(graph.outputs, outputs, strict=False)), notes)
