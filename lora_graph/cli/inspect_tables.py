"""The tables that ``lora-graph inspect`` prints."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lora_graph.inspect.cost import amount, nbytes
from lora_graph.inspect.preset import PassSummary
from lora_graph.inspect.statistics import Values
from lora_graph.inspect.summary import Summary, mix
from lora_graph.rewrite.record import Report

MOST_OF_MODULE = 4
"""Kinds of ops in the line about a module."""
LEAST_NAME, LEAST_FREE = 24, 10
"""Columns that names and the last text of a line keep when a table is wider than the terminal."""

Row = Sequence[str]


def safe(text: str) -> Text:
    """``text`` without what a terminal would obey: letters that do not print are written as escapes."""
    return Text("".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text))


def print_summary(console: Console, summary: Summary) -> None:
    """What a model is, a line a fact; and the table of its modules."""
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True, style="dim")
    grid.add_column(overflow="fold")
    for name, text in summary.facts:
        grid.add_row(name, safe(text))
    console.print(grid)
    names = _indented([module.name for module in summary.modules])
    rows = [
        (
            name,
            f"{module.parameters.total:,}" if module.parameters.total else "",
            amount(module.cost.flops) if module.cost.flops else "",
            nbytes(module.cost.bytes) if module.cost.bytes else "",
            f"{summary.share(module):.1%}",
            mix(module.ops, MOST_OF_MODULE) if module.ops else "",
        )
        for name, module in zip(names, summary.modules, strict=True)
    ]
    _print_table(console, ("module", "parameters", "operations", "moved", "share", "ops"), rows, free=5)
    for name, count in summary.uncounted.items():
        console.print(safe(f"note: the operations of {count} {name} are not known, and not counted"), soft_wrap=True)


def _indented(paths: Sequence[str]) -> list[str]:
    """Each path below the one before it that it begins with, and without that."""
    lines: list[str] = []
    around: list[str] = []
    for path in paths:
        while around and not path.startswith(f"{around[-1]}."):
            around.pop()
        own = path.removeprefix(f"{around[-1]}.") if around else path or "(model)"
        lines.append("  " * len(around) + own)
        around.append(path)
    return lines


def print_values(console: Console, values: Values) -> None:
    """The statistics of weights, and of what adapters change."""
    rows = [
        (
            w.name,
            *(_number(value) for value in (w.minimum, w.maximum, w.mean, w.std)),
            f"{w.zeros / w.size:.1%}" if w.zeros else "",
            f"{w.nonfinite:,}" if w.nonfinite else "",
            w.type,
        )
        for w in values.weights
    ]
    _print_table(console, ("weight", "min", "max", "mean", "std", "zeros", "not finite", "type"), rows, free=7)
    if values.changes:
        rows = [
            (
                change.weight,
                str(change.effective_rank),
                f"{change.entropy_rank:.1f}",
                _number(change.norm),
                f"{change.relative:.1%}",
                " × ".join(map(str, change.shape)),
            )
            for change in values.changes
        ]
        columns = ("changed weight", "effective rank", "by entropy", "‖ΔW‖", "of ‖W‖", "shape")
        _print_table(console, columns, rows, free=5)
    if values.apart:
        console.print(safe(f"note: what these add is no change of a weight: {', '.join(values.apart)}"), soft_wrap=True)


def print_passes(console: Console, preset: str, steps: Sequence[PassSummary], report: Report) -> None:
    """What each pass did, and below the table what was refused and why."""
    rows = [
        (
            step.name,
            str(step.before),
            str(step.after),
            f"{step.seconds * 1e3:.1f}",
            mix(step.fired) if step.fired else "",
        )
        for step in steps
    ]
    _print_table(console, (f"pass of {preset}", "before", "after", "ms", "rules that fired"), rows, free=4, wrap=True)
    for step in steps:
        for refusal in step.refused:
            where = f" ({', '.join(refusal.modules)})" if refusal.modules else ""
            times = f"{refusal.count}× " if refusal.count > 1 else ""
            text = f"{step.name} refused {times}{refusal.rule}: {refusal.reason}{where}"
            console.print(safe(text), soft_wrap=True)
    before, after = sum(report.before.values()), sum(report.after.values())
    console.print(f"{before} ops -> {after} ops in {report.seconds * 1e3:.1f} ms")


def _print_table(console: Console, columns: Row, rows: Sequence[Row], free: int, wrap: bool = False) -> None:
    """A table of names, numbers, and in the column ``free`` text that gives way first where there is no room.

    Then names are cut, and where that is not enough ``free`` is left out. With ``wrap`` it takes several lines.
    """
    if not rows:
        return
    widths = [max(len(safe(cell)) for cell in column) for column in zip(columns, *rows, strict=True)]
    spare = console.width - sum(widths) - 2 * len(columns)
    if spare < 0:
        cut = min(-spare, max(widths[free] - LEAST_FREE, 0))
        widths[free], spare = widths[free] - cut, spare + cut
        widths[0] -= min(-spare, max(widths[0] - LEAST_NAME, 0))
    shown = [i for i in range(len(columns)) if i != free or sum(widths) + 2 * len(columns) <= console.width]
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for i in shown:
        folds = wrap and i == free
        overflow = "fold" if folds else "ellipsis"
        justify = "left" if i in (0, free) else "right"
        table.add_column(columns[i], justify=justify, width=widths[i], no_wrap=not folds, overflow=overflow)  # type: ignore[arg-type]
    for row in rows:
        table.add_row(*(safe(row[i]) for i in shown))
    console.print(table)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"
