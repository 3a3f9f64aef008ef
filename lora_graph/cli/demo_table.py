"""The table that the demo ends with."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table

from lora_graph.cli.demo import DemoResult

WIDTH = 79
"""Columns of a terminal that show the whole table; a narrower one gets the first five columns."""


def print_demo(result: DemoResult) -> None:
    console = Console()
    shown = 8 if console.width >= WIDTH else 5
    title = f"Digits turned by 90° and inverted: accuracy of the {result.model.upper()} on held-out images"
    table = Table(title=title, title_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("model", no_wrap=True)
    for column in ("trained", "share", "before", "after", "max diff", "file", "latency")[: shown - 1]:
        table.add_column(column, justify="right", no_wrap=True)
    for row in result.rows:
        cells = (
            row.name,
            f"{row.trained:,}" if row.trained else "-",
            f"{row.share:.1%}" if row.trained else "-",
            f"{row.before:.1%}",
            f"{row.after:.1%}",
            f"{row.difference:.0e}",
            f"{row.bytes / 1024:.0f} KiB",
            f"{row.latency_us:.0f} µs",
        )
        table.add_row(*cells[:shown])
    console.print(table)
    legend = (
        " 'max diff' is the largest difference of any output between the interpreter, the parallel and the merged "
        "model in ONNX Runtime; 'file' and 'latency' (one image, one thread) are those of the merged model."
        if shown == 8
        else f" A terminal of {WIDTH} columns shows differences, sizes and latencies as well."
    )
    console.print(
        f"The base network classifies {result.original_accuracy:.1%} of the digits as they are.{legend}",
        highlight=False,
    )
    count = sum(len(row.files) for row in result.rows)
    console.print(f"{count} models in {result.out}/, {result.seconds:.0f} s.", highlight=False)
