"""The table that the demo ends with."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table

from lora_graph.cli.demo import DemoResult


def print_demo(result: DemoResult) -> None:
    title = "Digits turned by 90° and inverted: accuracy on held-out images"
    table = Table(title=title, title_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("model", no_wrap=True)
    for column in ("trained", "share", "before", "after", "max diff", "file", "latency"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in result.rows:
        table.add_row(
            row.name,
            f"{row.trained:,}" if row.trained else "-",
            f"{row.share:.1%}" if row.trained else "-",
            f"{row.before:.1%}",
            f"{row.after:.1%}",
            f"{row.difference:.0e}",
            f"{row.bytes / 1024:.0f} KiB",
            f"{row.latency_us:.0f} µs",
        )
    console = Console()
    console.print(table)
    console.print(
        f"The base network classifies {result.original_accuracy:.1%} of the digits as they are. "
        "'max diff' is the largest difference of any output between the interpreter, the parallel and the merged model "
        "in ONNX Runtime; 'file' and 'latency' (one image, one thread) are those of the merged model.",
        highlight=False,
    )
    count = sum(len(row.files) for row in result.rows)
    console.print(f"{count} models in {result.out}/, {result.seconds:.0f} s.", highlight=False)
