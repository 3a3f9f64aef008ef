"""A model as a page: its passes as stages, what each node costs, what its weights are like."""

from __future__ import annotations

import os
from typing import Any

from lora_graph.inspect import statistics
from lora_graph.inspect.cost import details, metrics
from lora_graph.inspect.drawing import costs_of
from lora_graph.inspect.inspected import Inspected
from lora_graph.inspect.preset import PassSummary, passes_of
from lora_graph.inspect.scene import scene_of
from lora_graph.inspect.scene_data import to_data
from lora_graph.inspect.summary import summary_of

Pairs = list[tuple[str, str]]


def model_page(model: Inspected, *, preset: str = "inference", values: bool = False) -> dict[str, Any]:
    """The data of the page of ``model``, with a stage for each pass of ``preset``.

    With ``values`` weights tell their statistics, which takes reading all of them. ValueError: there is no such preset,
    or the values of the weights are not known.
    """
    steps, report = passes_of(model.graph, preset)
    costs = costs_of(model, report)
    told = details(costs)
    if values:
        told |= statistics.details(statistics.values_of(model), model.graph)
    scene = scene_of(model.graph, report=report, metrics=metrics(costs), details=told, adapters=model.adapters)
    data = to_data(scene)
    for stage, step in zip(data["stages"][1:], steps, strict=True):
        stage["facts"] = _facts(step)
    return {**data, "name": os.path.basename(model.label), "summary": list(summary_of(model, 0).facts)}


def _facts(step: PassSummary) -> Pairs:
    """What one pass did: ops, rules with how often each fired, refusals with their reasons."""
    facts = [("ops", f"{step.before:,} → {step.after:,}"), ("time", f"{step.seconds * 1e3:.3g} ms")]
    if step.fired:
        facts.append(("fired", "\n".join(f"{count} × {name}" for name, count in step.fired.items())))
    if step.refused:
        facts.append(("refused", "\n".join(f"{each.count} × {each.rule}: {each.reason}" for each in step.refused)))
    return facts
