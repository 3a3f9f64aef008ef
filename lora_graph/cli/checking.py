"""The command that compares the ways a model runs. It imports what it needs when it runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lora_graph.cli.commands import AS_JSON, MODEL

if TYPE_CHECKING:
    from lora_graph.inspect.report import CheckReport

WIDTH = 96
"""Columns of a terminal that show the whole table; a narrower one leaves out the tolerance and the case."""


@click.command(short_help="Compare the ways a model runs.")
@MODEL
@click.option(
    "--adapter",
    type=click.Path(path_type=Path),
    help="An adapter file or a PEFT folder: what in it does not fit the model is listed; if it fits, it is used.",
)
@click.option(
    "--base-weights",
    type=click.Path(dir_okay=False, path_type=Path),
    help="With --adapter: the base's weights before it was exported, as for `lora-graph import`.",
)
@click.option(
    "--inputs",
    "data",
    type=click.Path(dir_okay=False, path_type=Path),
    help="An .npz file with one array for each input, instead of random ones.",
)
@click.option(
    "--batch-size", type=click.IntRange(1), multiple=True, default=(1, 7), show_default=True, help="Several times."
)
@click.option("--size", multiple=True, metavar="NAME=N", help="The size of a named dimension.  [default: 16]")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of the inputs.")
@click.option("--atol", type=float, default=0.0, show_default=True, help="Absolute tolerance.")
@click.option(
    "--rtol",
    type=float,
    help="Tolerance relative to the largest entry.  [default: 1e-12 for float64, 1e-5 for float32, 1e-2 for float16]",
)
@AS_JSON
@click.pass_context
def check(
    ctx: click.Context,
    model: Path,
    adapter: Path | None,
    base_weights: Path | None,
    data: Path | None,
    batch_size: tuple[int, ...],
    size: tuple[str, ...],
    seed: int,
    atol: float,
    rtol: float | None,
    as_json: bool,
) -> None:
    """Run MODEL, an ONNX file of any form or a run, in every way there is, and compare the outputs.

    Compared with a reference in float64 are the compiled interpreter and ONNX Runtime, with its optimizations disabled
    and enabled; and merged adapters with parallel ones. Exit code 0: all is within the tolerance; 1: something is not,
    and the first value that diverges is named; 2: bad input.
    """
    import lora_graph as lg
    from lora_graph.adapters import runs
    from lora_graph.cli.arrays import plain, read_inputs
    from lora_graph.layers.weights import read_safetensors

    source: Any = runs.load(model) if model.is_dir() else model
    names = [] if data is None else list((source if model.is_dir() else lg.load_onnx(model)).inputs)
    inputs = None if data is None else read_inputs(data, names)
    report = lg.check(
        source,
        adapter=adapter,
        base_weights=None if base_weights is None else read_safetensors(base_weights),
        inputs=inputs,
        batch_sizes=batch_size,
        sizes=sizes_of(size),
        seed=seed,
        atol=atol,
        rtol=rtol,
    )
    if as_json:
        click.echo(json.dumps(plain({**report.to_dict(), "model": str(model)}), indent=2, allow_nan=False))
    else:
        print_report(report, str(model))
    ctx.exit(0 if report.ok else 1)


def print_report(report: CheckReport, model: str) -> None:
    """The findings, a table of the differences, and what there is to say about them."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from lora_graph.inspect.report import UNKNOWN

    console = Console(highlight=False, markup=False)
    for finding in report.findings:
        console.print(str(finding), soft_wrap=True)
    if report.comparisons:
        shown = 7 if console.width >= WIDTH else 5
        table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
        for column in ("output", "compared", "absolute", "relative", "ulp", "tolerance", "largest at")[:shown]:
            is_text = column in ("output", "compared", "largest at")
            table.add_column(column, justify="left" if is_text else "right", no_wrap=True)
        table.add_column("")
        for c in report.comparisons:
            ulp = f"{c.ulp:,.0f}" if c.ulp >= 10 else f"{c.ulp:.1f}"
            row = (c.output, c.pair, f"{c.absolute:.1e}", f"{c.relative:.1e}", ulp, f"{c.tolerance:.1e}", c.case)
            table.add_row(*row[:shown], "" if c.within else "differs")
        console.print(table)
        console.print(f"reference: {report.truth}", soft_wrap=True)
        console.print(f"run at: {'; '.join(report.cases)}", soft_wrap=True)
    for note in report.notes:
        console.print(f"note: {note}", soft_wrap=True)
    for pair, cause in dict.fromkeys((c.pair, c.cause) for c in report.comparisons if not c.within):
        console.print(f"{pair}: {cause or UNKNOWN}", soft_wrap=True)
    wrong = sum(not c.within for c in report.comparisons)
    verdict = f"{wrong} of {len(report.comparisons)} comparisons differ" if wrong else "all within the tolerance"
    errors = sum(finding.severity == "error" for finding in report.findings)
    console.print(f"{model}: {'the adapter does not fit' if errors else verdict}", soft_wrap=True)


def sizes_of(texts: tuple[str, ...]) -> dict[str, int]:
    """The sizes that ``NAME=N`` say, by name; ValueError for anything else."""
    found = {}
    for text in texts:
        name, _, number = text.rpartition("=")
        if not name or not number.isascii() or not number.isdigit():
            raise ValueError(f"--size must be a name and a number from 0 on, such as time=32, got {text!r}")
        found[name] = int(number)
    return found
