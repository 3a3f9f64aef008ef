"""A diff as a page: both graphs side by side in one layout, with what differs marked and listed."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

from lora_graph.inspect.diffing.lines import listed, moved, rank_text
from lora_graph.inspect.diffing.report import DiffReport
from lora_graph.inspect.diffing.weights import WeightChange
from lora_graph.inspect.scene import Scene, SceneMaker
from lora_graph.inspect.scene_data import to_data
from lora_graph.ir.value import Value

Changes = list[tuple[str, str, Sequence[Value]]]


def diff_page(report: DiffReport) -> dict[str, Any]:
    """The data of the page of a diff: the first graph on the left, the other one on the right."""
    making, changes = _made(report)
    jumps = [
        (mark, line, list(dict.fromkeys(making.ids[value] for value in values if value in making.ids)))
        for mark, line, values in changes
    ]
    data = to_data(making.scene({}, _marks(changes)))
    summary = [("left", report.labels[0]), ("right", report.labels[1]), ("difference", report.summary)]
    return {**data, "kind": "diff", "summary": summary, "changes": jumps}


def diff_scene(report: DiffReport) -> Scene:
    """Both graphs of a diff as two stages; what matches is one node, and every difference is marked."""
    making, changes = _made(report)
    return making.scene({}, _marks(changes))


def _made(report: DiffReport) -> tuple[SceneMaker, Changes]:
    left, right = _labels(report.labels)
    making = SceneMaker(f"{left} → {right}", (), {weight.before: _numbers(weight) for weight in report.weights})
    making.add(left, report.left)
    making.add(right, report.right, {after: before for before, after in report.matches.items()})
    return making, list(_changes(report))


def _numbers(weight: WeightChange) -> dict[str, str]:
    """What the panel says of a weight that moved."""
    old, new = weight.types
    kinds = {} if old == new else {"became": str(new)}
    if not weight.is_measured:
        return kinds
    sizes = {"‖ΔW‖": weight.norm, "‖ΔW‖/‖W‖": weight.relative, "max|ΔW|": weight.largest}
    rank = {} if weight.full_rank is None else {"rank of ΔW": f"{rank_text(weight)} of {weight.full_rank}"}
    return {**kinds, **{name: f"{size:.3g}" for name, size in sizes.items()}, **rank}


def _marks(changes: Changes) -> dict[Value, str]:
    return {value: mark for mark, _, values in reversed(changes) for value in values}


def _labels(labels: tuple[str, str]) -> tuple[str, str]:
    """The names of the two files without their folders, unless they are then the same."""
    left, right = map(os.path.basename, labels)
    return (left, right) if left != right else labels


def _changes(report: DiffReport) -> Iterator[tuple[str, str, Sequence[Value]]]:
    """Every difference: how it is marked, a line about it, and where it is; what a node is marked as comes first."""
    lines = dict(listed(report))
    for weight in report.weights:
        yield "weights", moved(weight, report.names[0]), [weight.before, weight.after]
    for change, line in zip(report.changed, lines["changed"], strict=True):
        yield "changed", line, [change.before, change.after]
    for fusion, line in zip(report.fused, lines["fused"], strict=True):
        yield "fused", line, [*fusion.after, *fusion.before]
    for value, line in zip(report.removed, lines["removed"], strict=True):
        yield "removed", line, [value]
    for value, line in zip(report.added, lines["added"], strict=True):
        yield "added", line, [value]
    for mark in ("removed", "added"):
        yield from ((mark, f"output {name}", []) for name in lines[f"outputs {mark}"])
