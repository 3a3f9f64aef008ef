"""The differences of a report, a line of text each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from lora_graph.inspect.diffing.changes import Change
from lora_graph.inspect.diffing.side import kind_of
from lora_graph.inspect.diffing.weights import WeightChange
from lora_graph.ir.value import Value

if TYPE_CHECKING:
    from lora_graph.inspect.diffing.report import DiffReport, Fusion

Named = Mapping[Value, str]


def listed(report: DiffReport) -> Iterator[tuple[str, list[str]]]:
    """Each kind of difference but weights, with its lines."""
    left, right = report.names
    yield "changed", [_changed(change, left) for change in report.changed]
    yield "fused", [_fused(fusion, right) for fusion in report.fused]
    yield "removed", [_value(value, left) for value in report.removed]
    yield "added", [_value(value, right) for value in report.added]
    yield "outputs removed", list(report.removed_outputs)
    yield "outputs added", list(report.added_outputs)
    yield "renamed", [f"{r.kind} {r.before} -> {r.after}" for r in report.renamed]


def moved(weight: WeightChange, names: Named) -> str:
    """How one weight moved."""
    old, new = weight.types
    kinds = f"{names[weight.before]}: {old}" if old == new else f"{names[weight.before]}: {old} -> {new}"
    if not weight.is_measured:
        return kinds
    kinds += " (transposed)" if weight.turned else ""
    rank = "" if weight.full_rank is None else f", rank {rank_text(weight)} of {weight.full_rank}"
    return f"{kinds}: norm {weight.norm:.3g}, relative {weight.relative:.3g}, largest {weight.largest:.3g}{rank}"


def rank_text(weight: WeightChange) -> str:
    return "high" if weight.rank is None else str(weight.rank)


def _changed(change: Change, names: Named) -> str:
    what = "; ".join(f"{name} {old} -> {new}" for name, (old, new) in change.what.items())
    return f"{names[change.before]} ({kind_of(change.before)}): {what}"


def _fused(fusion: Fusion, names: Named) -> str:
    before, after = (" ".join(map(kind_of, values)) for values in (fusion.before, fusion.after))
    return f"{names[fusion.after[-1]]}: {before} -> {after}"


def _value(value: Value, names: Named) -> str:
    return f"{names[value]}: {kind_of(value)} {value.result_type}"
