"""A profile as text: a table of the nodes of each engine, and what they add up to by op and by module."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TypeVar

from lora_graph.inspect.cost import amount
from lora_graph.inspect.profile_against import Pair, compared, grouped
from lora_graph.inspect.profile_report import Group, NodeTime, ProfileReport, Timing, spread

NARROWEST = 12
"""Columns that a name keeps, however narrow the table is to be."""
BUSY = 0.8
"""What the medians of nodes add up to at least, as a part of the median run, on a machine that does nothing else."""
T = TypeVar("T")


@dataclass(frozen=True)
class Room:
    """How many rows a table may have, and columns; names lose their middle to fit in."""

    rows: int | None = None
    columns: int = 160


def text(report: ProfileReport, room: Room | None = None) -> str:
    """The report. Where there is no room for all nodes, those that take longest are shown, in the order of the runs."""
    room = room or Room()
    threads = "1 thread" if report.threads == 1 else f"{report.threads} threads"
    parts = [f"{report.model}: {report.run_at}; {threads}, medians of {report.repeat} runs"]
    other = report.against
    if other is not None:
        parts[0] += f"\nagainst {other.model}: {other.run_at}"
    parts += [f"note: {note}" for note in report.notes]
    for name, timing in report.timings.items():
        if other is None:
            parts += [summary(timing), _nodes(timing, room), _outside(timing)]
            parts += [_groups("op", timing, timing.by_op, room), _groups("module", timing, timing.by_module, room)]
        else:
            against = other.timings[name]
            parts += [_ratio(timing, against), _pairs("node", compared(report, other)[name], room)]
            parts += [_pairs("op", grouped(timing.by_op, against.by_op), room)]
            parts += [_pairs("module", grouped(timing.by_module, against.by_module), room)]
    return "\n\n".join(parts)


def summary(timing: Timing) -> str:
    """Time, operations, rate and peak of an engine in a line."""
    found = spread(timing.plain)
    line = f"{timing.engine}: {_ms(found['median'])} ms a run ({_ms(found['low'])} to {_ms(found['high'])})"
    if timing.flops:
        line += f", {amount(timing.flops, 'FLOP')} at {timing.flops / timing.median / 1e9:.1f} GFLOP/s"
    if timing.floor:
        peaks = ", ".join(f"{rate / 1e9:.0f} GFLOP/s in {dtype}" for dtype, rate in timing.peaks.items())
        line += f", {timing.floor / timing.median:.0%} of the GEMM peak ({peaks})"
    return line


def _nodes(timing: Timing, room: Room) -> str:
    head = ("node", "op", "module", "ms", "±", "share", "FLOP", "GFLOP/s", "peak")
    shown = _longest(timing.nodes, room.rows, lambda node: node.median)
    rows = [
        (
            *_title(node),
            _ms(node.median),
            _ms((quartiles["high"] - quartiles["low"]) / 2),
            *_numbers(timing, node),
            "" if (part := timing.of_peak(node)) is None else f"{part:.0%}",
        )
        for node in shown
        for quartiles in [spread(node.seconds)]
    ]
    return _table(head, rows, 3, room.columns) + _rest(len(timing.nodes) - len(shown), "nodes")


def _groups(name: str, timing: Timing, groups: Sequence[Group], room: Room) -> str:
    head = (name, "nodes", "ms", "share", "FLOP", "GFLOP/s")
    shown = groups[: room.rows]
    rows = [(group.name or "-", str(group.count), _ms(group.median), *_numbers(timing, group)) for group in shown]
    return _table(head, rows, 1, room.columns) + _rest(len(groups) - len(shown), f"{name}s")


def _numbers(timing: Timing, part: NodeTime | Group) -> tuple[str, ...]:
    rate = f"{part.flops / part.median / 1e9:.1f}" if part.flops and part.median else ""
    return f"{timing.share(part):.1%}", amount(part.flops) if part.flops else "", rate


def _outside(timing: Timing) -> str:
    outside, run = median(timing.outside), median(timing.runs)
    share = outside / timing.accounted
    line = f"outside the nodes: {_ms(outside)} ms ({share:.1%}); a run with its nodes timed takes {_ms(run)} ms"
    if timing.accounted > BUSY * run:
        return line
    return f"{line}, of which {_ms(timing.accounted)} ms are accounted for: the machine was busy with something else"


def _ratio(own: Timing, other: Timing) -> str:
    return f"{own.engine}: {_ms(own.median)} ms a run against {_ms(other.median)} ms: {own.median / other.median:.2f}×"


def _pairs(name: str, pairs: Sequence[Pair], room: Room) -> str:
    shown = _longest(pairs, room.rows, lambda pair: pair.longer)
    rows = []
    for pair in shown:
        times = [_ms(part.median) if part else "-" for part in (pair.own, pair.other)]
        rows.append((*_titles(pair), *times, "" if pair.ratio is None else f"{pair.ratio:.2f}×"))
    texts = ("node", "op", "module") if name == "node" else (name,)
    table = _table((*texts, "ms", "against", "ratio"), rows, len(texts), room.columns)
    return table + _rest(len(pairs) - len(shown), f"{name}s")


def _titles(pair: Pair) -> tuple[str, ...]:
    part = pair.own or pair.other
    assert part is not None
    return _title(part) if isinstance(part, NodeTime) else (part.name or "-",)


def _title(node: NodeTime) -> tuple[str, str, str]:
    """The name without that of the module before it, the op and the module."""
    return node.node.removeprefix(f"{node.module}."), node.op, node.module


def _rest(count: int, what: str) -> str:
    return f"\nand {count} more {what}" if count else ""


def _longest(items: Sequence[T], top: int | None, seconds: Callable[[T], float]) -> Sequence[T]:
    """The ``top`` items that take longest, in their order."""
    if top is None or top >= len(items):
        return items
    kept = {id(item) for item in sorted(items, key=seconds, reverse=True)[:top]}
    return [item for item in items if id(item) in kept]


def shortened(name: str, width: int) -> str:
    """``name`` without its middle, if it is longer than ``width``."""
    if len(name) <= width:
        return name
    return f"{name[: width // 2]}…{name[len(name) - (width - 1) // 2 :]}"


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.3f}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], texts: int, columns: int) -> str:
    """Cells with two spaces between; the first ``texts`` of each row are flush left, the others right."""
    lines = [head, *rows]
    widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
    while sum(widths) + 2 * (len(widths) - 1) > columns and max(widths[:texts]) > NARROWEST:
        widths[widths.index(max(widths[:texts]))] -= 1
    return "\n".join(
        "  ".join(
            shortened(cell, width).ljust(width) if i < texts else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )
