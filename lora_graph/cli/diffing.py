"""The command that tells what differs between two models. It imports what it needs when it runs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lora_graph.cli.commands import AS_JSON, HTML, PRESETS, SVG
from lora_graph.cli.outputs import require_outputs

if TYPE_CHECKING:
    from rich.console import Console

    from lora_graph.inspect.diffing import DiffReport

NAME = 16
"""Columns that a name gets at least; a longer one takes several lines where there is no room."""
SHOWN = 20
"""Lines of each kind of difference that are printed unless --all is given."""


@click.command(short_help="Tell what differs between two models.")
@click.argument("a", type=click.Path(path_type=Path))
@click.argument("b", type=click.Path(path_type=Path))
@click.option(
    "--preset",
    type=click.Choice(PRESETS),
    help="Optimize both first, and compare what is left.  [default: as they are]",
)
@click.option(
    "--rtol",
    type=float,
    default=0.0,
    show_default=True,
    help="Weights that moved by no more than that, relative to their norm, are equal.",
)
@click.option("--all", "show_all", is_flag=True, help=f"Print every difference, not {SHOWN} of each kind.")
@HTML
@SVG
@AS_JSON
@click.pass_context
def diff(
    ctx: click.Context,
    a: Path,
    b: Path,
    preset: str | None,
    rtol: float,
    show_all: bool,
    html: Path | None,
    svg: Path | None,
    as_json: bool,
) -> None:
    """Align model A with model B by what they compute, not by names, and tell what became of A in B.

    A and B are ONNX files or runs. Told are ops that were added, removed or changed, ops that became others which
    compute the same, and weights that moved: by how much, and the rank of the change. Exit code 0: equal, up to names
    and the order of nodes; 1: different; 2: bad input.
    """
    import lora_graph as lg
    from lora_graph.cli.arrays import plain

    require_outputs({"--html": html, "--svg": svg}, [a, b])
    report = lg.diff(a, b, preset=preset, rtol=rtol)
    if html is not None:
        from lora_graph.inspect.page import write_page
        from lora_graph.inspect.page.diff import diff_page

        write_page(html, diff_page(report))
    if svg is not None:
        from lora_graph.inspect.drawing import diff_picture

        diff_picture(report, svg)
    if as_json:
        click.echo(json.dumps(plain(report.to_dict()), indent=2, allow_nan=False))
    else:
        print_report(report, len(report.left) + len(report.right) if show_all else SHOWN)
    ctx.exit(0 if report.equal else 1)


def print_report(report: DiffReport, shown: int) -> None:
    """Tables of modules and weights, what was added, removed, changed and fused, and the verdict."""
    from rich.console import Console

    from lora_graph.inspect.diffing.lines import listed

    console = Console(highlight=False, markup=False)
    _print_modules(console, report, shown)
    _print_weights(console, report, shown)
    for title, lines in listed(report):
        _print_list(console, title, lines, shown)
    console.print(f"{report.labels[0]} -> {report.labels[1]}: {report.summary}", soft_wrap=True)


def _print_modules(console: Console, report: DiffReport, shown: int) -> None:
    columns = ("weights", "added", "removed", "changed", "fused")
    rows = [(m.name or "(no module)", *(getattr(m, column) for column in columns)) for m in report.modules]
    _print_table(console, ("module", *columns), rows, shown)


def _print_weights(console: Console, report: DiffReport, shown: int) -> None:
    from lora_graph.inspect.diffing.lines import rank_text

    rows = []
    for weight in report.weights:
        old, new = weight.types
        rank = "" if weight.full_rank is None else f"{rank_text(weight)} of {weight.full_rank}"
        kind = str(old) if old == new else f"{old} -> {new}"
        numbers = ["", "", ""]
        if weight.is_measured:
            numbers = [f"{size:.3g}" for size in (weight.norm, weight.relative, weight.largest)]
        rows.append((report.names[0][weight.before], kind, *numbers, rank))
    _print_table(console, ("weight", "type", "‖ΔW‖", "‖ΔW‖/‖W‖", "max|ΔW|", "rank of ΔW"), rows, shown)


def _print_table(console: Console, columns: Sequence[str], rows: Sequence[Sequence[object]], shown: int) -> None:
    """A table with its first column, and any of types, to the left; of a zero nothing is printed."""
    from rich import box
    from rich.table import Table

    if not rows:
        return
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in columns:
        is_text = column in (columns[0], "type")
        width = NAME if column == columns[0] else None
        table.add_column(column, justify="left" if is_text else "right", min_width=width, overflow="fold")
    for row in rows[:shown]:
        table.add_row(*("" if cell == 0 else str(cell) for cell in row))
    console.print(table)
    _print_rest(console, len(rows) - shown)


def _print_list(console: Console, title: str, lines: Sequence[str], shown: int) -> None:
    if lines:
        console.print(f"{title}:")
        for line in lines[:shown]:
            console.print(f"  {line}", soft_wrap=True)
        _print_rest(console, len(lines) - shown)


def _print_rest(console: Console, more: int) -> None:
    if more > 0:
        console.print(f"  ... and {more} more (--all)")
