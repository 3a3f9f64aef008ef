"""Whether rewriting a graph changed what it computes, and the pass that did."""

from __future__ import annotations

from collections.abc import Collection

from lora_graph.inspect.differences import Difference, Tolerance, difference
from lora_graph.inspect.engines import Given, Program, State
from lora_graph.inspect.locate import precision, precisions
from lora_graph.rewrite.fold import run_prelude
from lora_graph.rewrite.pipeline import PRESETS


def departure(
    program: Program, found: State, given: Given, tolerance: Tolerance, outputs: Collection[str]
) -> tuple[str, Difference] | None:
    """The first output that is not what the reference of ``program`` gives, and by how much; None where all are."""
    expected, narrowest = program.reference(given), precisions(program.graph)
    for name in outputs:
        value = program.graph.outputs[name]
        apart = difference(found[name], expected[name], value.dtype)
        if not tolerance.allows(apart, precision(value, narrowest)):
            return name, apart
    return None


def first_pass(program: Program, preset: str, given: Given, tolerance: Tolerance, outputs: Collection[str]) -> str:
    """The first pass of a preset after which the graph computes something else, in float64; "" where none does."""
    graph, state = program.graph, {**program.state, **given.overrides}
    for step in PRESETS[preset].passes:
        graph, prelude, _ = step.run(graph)
        if prelude is not None:
            state = run_prelude(prelude, graph, state)
        found = Program(graph, state).reference(Given(given.inputs))
        if departure(program, found, given, tolerance, outputs):
            return step.name
    return ""
