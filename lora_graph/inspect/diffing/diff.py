"""The diff of two models: their graphs are aligned, and what is left is told."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from lora_graph import checks
from lora_graph.garbage import no_collections
from lora_graph.inspect.diffing.align import align
from lora_graph.inspect.diffing.changes import Names, changes
from lora_graph.inspect.diffing.equivalence import Equivalence
from lora_graph.inspect.diffing.folded import folded
from lora_graph.inspect.diffing.interface import match_inputs, match_outputs, match_sizes
from lora_graph.inspect.diffing.matching import Matching
from lora_graph.inspect.diffing.regions import pair_parameters, part, regions
from lora_graph.inspect.diffing.report import DiffReport, Fusion, Renamed, printed_names
from lora_graph.inspect.diffing.side import Numbers, Side, is_fixed
from lora_graph.inspect.diffing.turned import pair_turned
from lora_graph.inspect.diffing.weights import weight_changes
from lora_graph.inspect.inspected import Inspected, Model
from lora_graph.ir.leaves import Input
from lora_graph.ir.value import Value
from lora_graph.rewrite.pipeline import optimize_graph

FEW = 32
"""Results of a region that are looked at one by one where all together do not compute the same."""


def diff(a: Model | Inspected, b: Model | Inspected, *, preset: str | None = None, rtol: float = 0.0) -> DiffReport:
    """How the model ``a`` became the model ``b``: each is what :class:`Inspected` takes, or such a thing itself.

    The graphs are aligned by what they compute and how, not by names: inputs and outputs by name and then by what
    becomes of them and by position, parameters by their arrays and by what uses them. Names only choose between pairs
    that are alike otherwise. Graphs are compared as they are, or as ``preset`` (see ``lg.optimize``) leaves them. A
    weight counts as changed where ‖ΔW‖ > ``rtol`` · ‖W‖; where there are no arrays, as for a graph by itself, weights
    are told apart by name.

    ValueError for a preset that there is none of, or a bad ``rtol``; LoadError for a file that cannot be read.
    """
    tolerance = checks.at_least_zero("rtol", rtol)
    models = [model if isinstance(model, Inspected) else Inspected.of(model) for model in (a, b)]
    numbers = Numbers()
    left, right = (_side(model, preset, numbers) for model in models)
    with no_collections():
        return _compared(left, right, (models[0].label, models[1].label), tolerance)


def _side(model: Inspected, preset: str | None, numbers: Numbers) -> Side:
    if preset is None:
        return Side(model.graph, model.state, numbers, model.adapters)
    optimized = optimize_graph(model.graph, preset)
    return Side(optimized.graph, optimized.state(model.state) if model.state else {}, numbers, model.adapters)


def _compared(a: Side, b: Side, labels: tuple[str, str], rtol: float) -> DiffReport:
    inputs = match_inputs(a, b)
    sizes = match_sizes(a, b, inputs)
    a.ports = {p: number for number, (p, _) in enumerate(inputs)}
    b.ports = {q: number for number, (_, q) in enumerate(inputs)}
    outputs = match_outputs(a, b)
    pairs = [(a.graph.outputs[name], b.graph.outputs[other]) for name, other in outputs.items()]
    known = align(a, b, inputs, pairs)
    names = Names(printed_names(a.graph), printed_names(b.graph))
    fused = [*(Fusion(*found) for found in folded(known)), *_settled(known, pairs)]
    pair_turned(known)
    settled = {value for fusion in fused for value in (*fusion.before, *fusion.after)}
    return DiffReport(
        labels,
        a.graph,
        b.graph,
        known.match,
        added=_unmatched(b, known.back, settled),
        removed=_unmatched(a, known.match, settled),
        changed=tuple(changes(known, outputs.items(), names)),
        fused=tuple(fused),
        weights=tuple(weight_changes(known, rtol)),
        renamed=tuple(_renamed(known, outputs, sizes)),
        outputs=outputs,
    )


def _settled(known: Matching, outputs: list[tuple[Value, Value]]) -> list[Fusion]:
    """Of the ops without a match those that compute the same as others; single ones in one place are matched."""
    fused, same = [], Equivalence(known)
    for region in regions(known, outputs):
        pair_parameters(known, region)
        whole = part(known, region.results)
        if same.holds(whole):
            fused.append(Fusion(tuple(whole.before), tuple(whole.after)))
            continue
        for result in region.results[:FEW]:
            one = part(known, [result])
            if same.holds(one):
                fused.append(Fusion(tuple(one.before), tuple(one.after)))
            elif len(one.before) == len(one.after) == 1:
                known.record(*result)
    return fused


def _unmatched(side: Side, matched: Mapping[Value, Value], settled: set[Value]) -> tuple[Value, ...]:
    values = side.graph.values
    return tuple(v for v in values if v not in matched and v not in settled and not is_fixed(v))


def _renamed(known: Matching, outputs: Mapping[str, str], sizes: Mapping[str, str]) -> Iterator[Renamed]:
    """Names that differ, by kind and in the order of the first graph."""
    a, b = known.a, known.b
    leaves = [(p, known.match[p]) for p in (*a.graph.inputs, *a.graph.parameters.values()) if p in known.match]
    named = [("input" if isinstance(p.op, Input) else "parameter", a.name(p), b.name(q)) for p, q in leaves]
    sized = [("dimension", before, after) for before, after in sizes.items()]
    given = [("output", before, after) for before, after in outputs.items()]
    for kind, before, after in (*sized, *given, *named):
        if before != after:
            yield Renamed(kind, before, after)
