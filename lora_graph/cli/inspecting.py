"""The command that looks into a model. It imports what it needs when it runs."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lora_graph.cli.checking import sizes_of
from lora_graph.cli.commands import AS_JSON, HTML, MODEL, PRESETS, SVG
from lora_graph.cli.outputs import require_outputs

if TYPE_CHECKING:
    from lora_graph.inspect.inspected import Inspected


@click.command("inspect", short_help="Show what a model is made of and what it costs.")
@MODEL
@click.option("--values", is_flag=True, help="Statistics of every weight, and of what adapters change.")
@click.option("--passes", is_flag=True, help="What each pass of the optimizer does to it.")
@click.option(
    "--preset",
    type=click.Choice(PRESETS),
    default="inference",
    show_default=True,
    help="The passes of --passes and --html.",
)
@click.option("--ir", is_flag=True, help="Only its graph, as text.")
@click.option("--script", is_flag=True, help="Only its source as an onnxscript function.")
@click.option(
    "--size",
    multiple=True,
    metavar="NAME=N",
    help="The size of a named dimension, or of a built-in layer.  [default: 1 for a batch, else 16]",
)
@click.option("--depth", type=click.IntRange(0), help="Names in the paths of modules.  [default: up to 40 modules]")
@HTML
@SVG
@AS_JSON
def inspect(
    model: Path,
    values: bool,
    passes: bool,
    preset: str,
    ir: bool,
    script: bool,
    size: tuple[str, ...],
    depth: int | None,
    html: Path | None,
    svg: Path | None,
    as_json: bool,
) -> None:
    """Show what MODEL takes, gives, is made of and costs, module by module, before any optimization.

    MODEL is an ONNX file, the folder of a run, or the name of a built-in layer such as LSTMLayer.
    """
    from lora_graph.inspect.inspected import Inspected

    require_outputs({"--html": html, "--svg": svg}, [model])
    opened = Inspected.of(model, sizes=sizes_of(size))
    if html is not None:
        from lora_graph.inspect.page import write_page
        from lora_graph.inspect.page.model import model_page

        write_page(html, model_page(opened, preset=preset, values=values))
    if svg is not None:
        from lora_graph.inspect.drawing import picture

        picture(opened, svg, preset=preset if passes else None, depth=None if depth is None else max(depth - 1, 0))
    if as_json:
        facts = _facts(opened, model, depth, values, preset if passes else "", ir, script)
        click.echo(json.dumps(facts, indent=2, allow_nan=False))
    elif ir or script:
        click.echo("\n".join([*([str(opened.graph)] if ir else []), *([_script(opened, model)] if script else [])]))
    else:
        _print(opened, depth, values, preset if passes else "")


def _facts(
    opened: Inspected, model: Path, depth: int | None, values: bool, preset: str, ir: bool, script: bool
) -> dict[str, Any]:
    from lora_graph.cli.arrays import plain
    from lora_graph.inspect.preset import passes_of
    from lora_graph.inspect.statistics import values_of
    from lora_graph.inspect.summary import summary_of

    facts = summary_of(opened, depth).to_dict()
    if values:
        facts["values"] = asdict(values_of(opened))
    if preset:
        steps, report = passes_of(opened.graph, preset)
        facts["passes"] = {"preset": preset, "seconds": report.seconds, "passes": [step.to_dict() for step in steps]}
    if ir:
        facts["ir"] = str(opened.graph)
    if script:
        facts["script"] = _script(opened, model)
    found: dict[str, Any] = plain(facts)
    return found


def _script(opened: Inspected, model: Path) -> str:
    """The source of the file ``model``, or of the file that a layer would be exported to."""
    from lora_graph.onnx.export import export_onnx
    from lora_graph.onnx.script import script_of

    if opened.layer is None:
        return script_of(model, str(model))
    return script_of(export_onnx(opened.layer))


def _print(opened: Inspected, depth: int | None, values: bool, preset: str) -> None:
    from rich.console import Console

    from lora_graph.cli import inspect_tables as tables
    from lora_graph.inspect.preset import passes_of
    from lora_graph.inspect.statistics import values_of
    from lora_graph.inspect.summary import summary_of

    console = Console(highlight=False, markup=False)
    tables.print_summary(console, summary_of(opened, depth))
    if values:
        tables.print_values(console, values_of(opened))
    if preset:
        steps, report = passes_of(opened.graph, preset)
        tables.print_passes(console, preset, steps, report)
