"""The command that puts an adapter of another library on a model. It imports what it needs when it runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lora_graph.cli.commands import AS_JSON

if TYPE_CHECKING:
    import lora_graph as lg

BASE = "base.onnx"
"""The base in the folder of a run, where it is not the model that was given."""


@click.command("import", short_help="Put an adapter of PEFT or LyCORIS on an ONNX model.")
@click.argument("adapter", type=click.Path(path_type=Path))
@click.option(
    "--base", type=click.Path(dir_okay=False, path_type=Path), required=True, help="The ONNX file it belongs to."
)
@click.option(
    "-o", "--output", type=click.Path(file_okay=False, path_type=Path), required=True, help="The folder of the new run."
)
@click.option(
    "--base-weights",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The base's weights before it was exported, as safetensors: they tell modules apart that no name tells "
    "apart, and undo a folded BatchNorm.",
)
@AS_JSON
def import_adapter(adapter: Path, base: Path, output: Path, base_weights: Path | None, as_json: bool) -> None:
    """Put ADAPTER on an ONNX model, and write a run that `lora-graph train`, `merge` and `export` go on with.

    ADAPTER is a folder that PEFT saved, or a file of LyCORIS or kohya. What is printed is how each of its modules was
    found in the model.
    """
    import lora_graph as lg
    from lora_graph.adapters import runs
    from lora_graph.layers.weights import read_safetensors

    runs.require_new(output)
    model = lg.load_onnx(base)
    weights = None if base_weights is None else read_safetensors(base_weights)
    read = lg.load_peft if adapter.is_dir() else lg.load_lycoris
    adapted = read(model, adapter, base_weights=weights)
    runs.create(output, _base_file(output, base, model, adapted), adapted, [])
    if as_json:
        click.echo(json.dumps({"run": str(output), **adapted.report.to_dict()}, indent=2))
        return
    click.echo(adapted.report)
    trained, total = adapted.parameter_count, sum(array.size for array in adapted.state.values())
    click.echo(f"{output}: {trained:,} of {total:,} parameters train ({trained / total:.2%})")


def _base_file(folder: Path, base: Path, model: lg.Layer, adapted: lg.AdaptedModel) -> Path:
    """The file of the model under the adapter: ``base``, or where that had to be changed, one in the folder."""
    from lora_graph.onnx.store import export_model

    if adapted.base.get_parameter_names() == model.get_parameter_names():
        return base
    folder.mkdir(parents=True, exist_ok=True)
    # not optimized, which would fold again what was taken apart
    export_model(adapted.base.to_graph(), adapted.base.state, folder / BASE)
    return folder / BASE
