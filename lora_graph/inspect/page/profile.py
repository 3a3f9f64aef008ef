"""A profile as a page: the graph that each engine ran as a stage, coloured by the time of its nodes."""

from __future__ import annotations

import os
from collections.abc import Collection
from typing import Any

from lora_graph.inspect.cost import amount, details, metrics
from lora_graph.inspect.profile_report import ProfileReport, Timing
from lora_graph.inspect.profile_text import summary
from lora_graph.inspect.scene import Scene, SceneMaker
from lora_graph.inspect.scene_data import to_data
from lora_graph.ir.graph import Graph
from lora_graph.ir.value import Value

TIME = "time, "
"""How the name of a metric begins that is the seconds of an engine."""


def profile_page(report: ProfileReport, adapters: Collection[str] = ()) -> dict[str, Any]:
    """The data of the page of a profile; ``adapters`` are the parameters that belong to adapters.

    Of the model that it was compared with the times are told, and not its nodes.
    """
    data = to_data(profile_scene(report, adapters))
    return {**data, "name": os.path.basename(report.model), "kind": "profile", "summary": _summary(report)}


def profile_scene(report: ProfileReport, adapters: Collection[str] = ()) -> Scene:
    """The graph that each engine ran as a stage; engines that ran the same graph share one."""
    told: dict[Value, dict[str, str]] = {}
    numbers: dict[str, dict[Value, float]] = {}
    for name, timing in report.timings.items():
        numbers[f"{TIME}{name}"] = timing.seconds
        for value, words in details(timing.costs.of).items():
            told[value] = words | told.get(value, {})
        for value, text in _timed(timing).items():
            told.setdefault(value, {})[name] = text
    for timing in report.timings.values():
        for metric, found in metrics(timing.costs.of).items():
            numbers.setdefault(metric, {}).update(found)
    graphs: dict[Graph, list[str]] = {}
    for name, timing in report.timings.items():
        graphs.setdefault(timing.costs.graph, []).append(name)
    (first, names), *others = graphs.items()
    making = SceneMaker(first.name, adapters, told)
    making.add(", ".join(names), first)
    for graph, names in others:
        making.follow(", ".join(names), graph)
    return making.scene(numbers)


def _timed(timing: Timing) -> dict[Value, str]:
    """What an engine took for each Value, in words."""
    words: dict[Value, list[str]] = {}
    for node in timing.nodes:
        if node.value is not None:
            text = f"{node.median * 1e6:.3g} µs, {timing.share(node):.1%}"
            if node.flops and node.median:
                text += f", {amount(node.flops / node.median, 'FLOP/s')}"
            peak = timing.of_peak(node)
            words.setdefault(node.value, []).append(text if peak is None else f"{text}, {peak:.0%} of the peak")
    return {value: "\n".join(texts) for value, texts in words.items()}


def _summary(report: ProfileReport) -> list[tuple[str, str]]:
    threads = "1 thread" if report.threads == 1 else f"{report.threads} threads"
    facts = [("run at", f"{report.run_at}; {threads}, medians of {report.repeat} runs")]
    facts += [("engine", summary(timing)) for timing in report.timings.values()]
    if report.against is not None:
        facts.append(("against", report.against.model))
        facts += [("engine", summary(timing)) for timing in report.against.timings.values()]
    return facts + [("note", note) for note in report.notes]
