"""The command that tells where the time of a run goes. It imports what it needs when it runs."""

from __future__ import annotations

import json
from pathlib import Path
from shutil import get_terminal_size
from typing import Any

import click

from lora_graph.cli.checking import sizes_of
from lora_graph.cli.commands import AS_JSON, HTML, MODEL, SVG
from lora_graph.cli.outputs import require_outputs


@click.command(short_help="Tell where the time of a run goes.")
@MODEL
@click.option("--against", type=click.Path(path_type=Path), help="Another model to compare with, node by node.")
@click.option(
    "--engine",
    type=click.Choice(["all", "numpy", "onnxruntime"]),
    default="all",
    show_default=True,
    help="The NumPy interpreter; ONNX Runtime, without and with its optimizations; or both.",
)
@click.option(
    "--size", multiple=True, metavar="NAME=N", help="The size of a named dimension.  [default: 64 for a batch, else 16]"
)
@click.option(
    "--inputs",
    "data",
    type=click.Path(dir_okay=False, path_type=Path),
    help="An .npz file with one array for each input, instead of random ones.",
)
@click.option("--training", is_flag=True, help="Profile a training step instead, on random targets.")
@click.option("--loss", help="With --training: mse, cross_entropy or binary_cross_entropy.  [default: mse]")
@click.option("--optimizer", type=click.Choice(["adamw", "adam", "sgd"]), help="With --training.  [default: adam]")
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True, help="Threads of an op.")
@click.option("--repeat", type=click.IntRange(1), default=20, show_default=True, help="Runs that are timed.")
@click.option("--warmup", type=click.IntRange(0), default=3, show_default=True, help="Runs before them.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of the inputs.")
@click.option("--top", type=click.IntRange(1), default=20, show_default=True, help="Rows a table.")
@HTML
@SVG
@AS_JSON
def profile(
    model: Path,
    against: Path | None,
    size: tuple[str, ...],
    data: Path | None,
    top: int,
    html: Path | None,
    svg: Path | None,
    as_json: bool,
    optimizer: str | None,
    **settings: Any,
) -> None:
    """Run MODEL, an ONNX file, a run or a built-in layer by name, and tell how long each of its nodes takes."""
    import lora_graph as lg
    from lora_graph.cli.arrays import plain, read_inputs
    from lora_graph.inspect.inspected import Inspected
    from lora_graph.inspect.profile_text import Room, text

    sizes = sizes_of(size)
    require_outputs({"--html": html, "--svg": svg}, [model, against, data])
    if not settings["training"] and (settings["loss"] is not None or optimizer is not None):
        raise click.UsageError("--loss and --optimizer belong to a training step: give --training")
    names = [] if data is None else Inspected.of(model, sizes=sizes).graph.input_names
    report = lg.profile(
        model,
        against=against,
        inputs=None if data is None else read_inputs(data, names),
        sizes=sizes,
        optimizer=None if optimizer is None else {"adamw": lg.AdamW, "adam": lg.Adam, "sgd": lg.SGD}[optimizer](1e-3),
        **settings,
    )
    if html is not None:
        from lora_graph.inspect.page import write_page
        from lora_graph.inspect.page.profile import profile_page

        write_page(html, profile_page(report, Inspected.of(model, sizes=sizes).adapters))
    if svg is not None:
        from lora_graph.inspect.drawing import profile_picture

        profile_picture(report, svg, Inspected.of(model, sizes=sizes).adapters)
    if as_json:
        click.echo(json.dumps(plain(report.to_dict()), indent=2, allow_nan=False))
    else:
        click.echo(text(report, Room(top, get_terminal_size((Room.columns, 24)).columns)))
