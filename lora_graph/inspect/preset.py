"""What the passes of a preset do to a graph: how it shrinks, which rules fire, which refuse and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from lora_graph.ir.graph import Graph
from lora_graph.rewrite.pipeline import optimize_graph
from lora_graph.rewrite.record import PassRecord, Report


@dataclass(frozen=True)
class Refusal:
    """A rule matched ``count`` times but was not applied, for one reason; ``modules`` are those it matched in."""

    rule: str
    reason: str
    count: int
    modules: tuple[str, ...]


@dataclass(frozen=True)
class PassSummary:
    """One pass of a preset: numbers of ops before and after, how often each rule fired, what was refused."""

    name: str
    before: int
    after: int
    fired: Mapping[str, int]
    refused: tuple[Refusal, ...]
    sweeps: int
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return asdict(self)


def passes_of(graph: Graph, preset: str) -> tuple[tuple[PassSummary, ...], Report]:
    """What each pass of ``preset`` does to ``graph``, and the report it is read from; ValueError for no preset."""
    report = optimize_graph(graph, preset).report
    return tuple(_summary(record) for record in report.passes), report


def _summary(record: PassRecord) -> PassSummary:
    return PassSummary(
        record.name,
        sum(record.before.op_counts().values()),
        sum(record.after.op_counts().values()),
        dict(record.fired),
        tuple(_refusals(record)),
        record.sweeps,
        record.seconds,
    )


def _refusals(record: PassRecord) -> list[Refusal]:
    """What was refused, alike ones together, most frequent first; the same one of several sweeps counts once."""
    once = {(refused.rule, refused.reason, refused.value) for refused in record.refused}
    counts = Counter((rule, reason) for rule, reason, _ in once)
    scopes: dict[tuple[str, str], set[str]] = {}
    for rule, reason, value in once:
        note = record.before.notes.get(value) or record.after.notes.get(value)
        if note is not None and note.scope:
            scopes.setdefault((rule, reason), set()).add(note.scope)
    return [
        Refusal(rule, reason, count, tuple(sorted(scopes.get((rule, reason), ()))))
        for (rule, reason), count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    ]
