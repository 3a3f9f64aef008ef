"""What notebooks show of graphs, layers and reports. Every text of a model is escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import singledispatch
from html import escape

from lora_graph.inspect.diffing.report import DiffReport
from lora_graph.inspect.drawing import model_scene, readable_depth
from lora_graph.inspect.inspected import Inspected
from lora_graph.inspect.layout import Layout, lay_out
from lora_graph.inspect.page.diff import diff_scene
from lora_graph.inspect.report import UNKNOWN, CheckReport
from lora_graph.inspect.scene_text import plain
from lora_graph.inspect.summary import Summary
from lora_graph.inspect.svg import boxes_at, side_by_side
from lora_graph.inspect.svg import svg as drawing
from lora_graph.ir.graph import Graph
from lora_graph.layers.layer import Layer
from lora_graph.rewrite.record import Report

TOO_MANY = 2000
"""Boxes that are too many for a notebook, even with every module folded: such a graph is printed."""


@singledispatch
def svg(_: object) -> str | None:
    """A thing as the text of an SVG image; None if there is no such thing."""
    return None


@singledispatch
def html(thing: object) -> str:
    """A thing as a piece of HTML; by default its text."""
    return _text(str(thing))


@svg.register
def _(graph: Graph) -> str | None:
    return _drawn(_layout(graph))


@svg.register
def _(layer: Layer) -> str | None:
    return _drawn(_layout(layer))


@html.register
def _(graph: Graph) -> str:
    return _figure(_layout(graph), repr(graph), "text", str(graph))


@html.register
def _(layer: Layer) -> str:
    facts = layer.get_diagnostics()
    head = f"{facts['layer_name']}: {facts['input_shape']} → {facts['output_shape']}"
    counts = f"{facts['total_parameters']} parameters, {facts['trainable_parameters']} of them trainable"
    return _figure(_layout(layer), f"{head}, {counts}", "layers", str(layer))


@html.register
def _(report: Report) -> str:
    before, after = (f"{sum(counts.values()):,} ops" for counts in (report.before, report.after))
    rows = [
        (
            record.name,
            f"{len(record.before):,} → {len(record.after):,}",
            ", ".join(f"{name} ×{count}" for name, count in record.fired.items()),
            "; ".join(sorted(set(map(str, record.refused)))),
            f"{record.seconds * 1e3:.1f}",
        )
        for record in report.passes
    ]
    return _table(f"{before} → {after}", ("pass", "values", "rules", "refused", "ms"), rows)


@html.register
def _(report: CheckReport) -> str:
    verdict = "within tolerance" if report.ok else "NOT within tolerance"
    rows = [
        (
            c.output,
            c.pair,
            f"{c.absolute:.3g}",
            f"{c.relative:.3g}",
            f"{c.ulp:.3g}",
            "" if c.within else c.cause or UNKNOWN,
        )
        for c in report.comparisons
    ]
    table = _table(
        f"{report.model}: {verdict}", ("output", "compared", "absolute", "relative", "ulp", "differs from"), rows
    )
    return table + "".join(_text(str(each)) for each in (*report.findings, *report.notes))


@html.register
def _(report: Summary) -> str:
    return _table(report.model, ("", ""), list(report.facts)) + _text(str(report))


@html.register
def _(report: DiffReport) -> str:
    layout = lay_out(diff_scene(report))
    image = side_by_side(layout, depth=readable_depth(layout)) if _fits(layout) else ""
    head = f"{report.labels[0]} → {report.labels[1]}: {report.summary}"
    return _scrolled(image, head, "every difference", str(report))


def _layout(thing: Graph | Layer) -> Layout:
    return lay_out(model_scene(Inspected.of(thing)))


def _drawn(layout: Layout) -> str | None:
    return drawing(layout, depth=readable_depth(layout)) if _fits(layout) else None


def _fits(layout: Layout) -> bool:
    return boxes_at(layout, 0) <= TOO_MANY


def _figure(layout: Layout, head: str, name: str, text: str) -> str:
    return _scrolled(_drawn(layout) or "", head, name, text)


def _scrolled(image: str, head: str, name: str, text: str) -> str:
    more = f"<details><summary>{_safe(name)}</summary>{_text(text)}</details>"
    return f'<div><div>{_safe(head)}</div><div style="max-height:640px;overflow:auto">{image}</div>{more}</div>'


def _safe(text: str) -> str:
    return escape(plain(text))


def _text(text: str) -> str:
    return f"<pre>{_safe(text)}</pre>"


def _table(caption: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    cells = "".join(f"<th>{_safe(name)}</th>" for name in head)
    body = "".join(f"<tr>{''.join(f'<td>{_safe(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><caption>{_safe(caption)}</caption><thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table>"
