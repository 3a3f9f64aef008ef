"""The commands. Each imports what it needs when it runs, so that ``--help`` is immediate."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    import lora_graph as lg

MODEL = click.argument("model", type=click.Path(path_type=Path))
AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
PRESETS = ("train", "train-onnx", "inference", "export", "prepare", "finish", "merge", "deploy")
"""Named here so that ``--help`` need not import them."""
HTML = click.option(
    "--html",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write a page for the browser as well: one file that needs no network.",
)
SVG = click.option(
    "--svg",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Draw an SVG image as well.",
)
OUTPUT = click.option(
    "-o", "--output", type=click.Path(dir_okay=False, path_type=Path), required=True, help="The ONNX file to write."
)
RANK = click.option("--rank", type=int, help="The rank of DyLoRA adapters.  [default: the one they were saved with]")
DTYPE = click.option(
    "--dtype", type=click.Choice(["float16"]), help="Weights of half the size; inputs and outputs stay float32."
)
OPSET = click.option("--opset", type=int, default=21, show_default=True, help="ONNX opset, 21 to 26.")


@click.command(short_help="Train, adapt and export a digit classifier.")
@click.option(
    "--model",
    type=click.Choice(["mlp", "cnn", "lstm"]),
    default="mlp",
    show_default=True,
    help="Dense layers, convolutions, or an LSTM that reads the images row by row.",
)
@click.option(
    "-o",
    "--output",
    "--out",
    "out",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where the ONNX files go.  [default: exported_models, with the model's name below it unless that is mlp]",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of everything random.")
@AS_JSON
def demo(model: str, out: Path | None, seed: int, as_json: bool) -> None:
    """Adapt a digit classifier to a changed task with every adapter, and export it all.

    Trains a small network on handwritten digits, turns the digits by 90 degrees and inverts them, freezes the network,
    and adapts it with LoRA, DyLoRA, LoKr and LoRA-drop, beside full fine-tuning. Every file is run in ONNX Runtime.
    """
    from lora_graph.cli.demo import run_demo
    from lora_graph.cli.demo_table import print_demo

    result = run_demo(out or Path("exported_models", "" if model == "mlp" else model), seed, model)
    if as_json:
        click.echo(json.dumps(result.to_dict(), indent=2))
    else:
        print_demo(result)


FORMS = ("merged", "parallel", "hot-swap", "web", "dynamic-rank", "multi-adapter", "weighted")
"""The forms of deployment; named here so that ``--help`` need not import them."""

PEFT = "peft"
"""The form that is no ONNX file, but the adapters of a run as PEFT saves them."""


@click.command(short_help="Write a model with its adapters in another form.")
@MODEL
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    required=True,
    help="The ONNX file to write; a folder for the form peft.",
)
@click.option(
    "--form",
    type=click.Choice([*FORMS, PEFT]),
    default="merged",
    show_default=True,
    help="Adapters folded into their base; beside it; or in files of their own (see docs/deploy.md).",
)
@click.option("--adapter-only", is_flag=True, help="Write only the adapter files of a form that takes such files.")
@click.option("--layout", type=click.Choice(["columns", "rows"]), help="Of multi-adapter.  [default: the cheaper one]")
@RANK
@DTYPE
@OPSET
@AS_JSON
def export(
    model: Path,
    output: Path,
    form: str,
    adapter_only: bool,
    layout: str | None,
    rank: int | None,
    dtype: str | None,
    opset: int,
    as_json: bool,
) -> None:
    """Write MODEL, an ONNX file or a run, anew: with its adapters merged into their base, beside it, or apart.

    For a form that takes adapter files, those of the run are written as well: OUTPUT with the suffix .onnx_adapter (or
    .safetensors), before which the name of the adapter stands where the run has several. The form peft is these
    adapters without the model, for the PEFT library to load.
    """
    import lora_graph as lg
    from lora_graph.adapters import runs
    from lora_graph.cli.pretrained import write_pretrained
    from lora_graph.layers.imported import FORM, ImportedLayer

    if form == PEFT:
        if adapter_only or layout or rank is not None or dtype:
            raise ValueError("--form peft takes no --adapter-only, --layout, --rank or --dtype")
        folders = [str(path) for path in write_pretrained(model, output)]
        click.echo(json.dumps({"form": form, "folders": folders}, indent=2) if as_json else "\n".join(folders))
        return
    layer: lg.Layer = runs.load(model) if model.is_dir() else lg.load_onnx(model)
    merged_before = isinstance(layer, ImportedLayer) and layer.metadata.get(FORM) == "merged"
    if form == "parallel" and merged_before:
        raise ValueError(f"{model}: its adapters are merged, and cannot be taken out again; use --form merged")
    if layout is not None and form != "multi-adapter":
        raise ValueError(f"--layout belongs to --form multi-adapter, got --form {form}")
    options: dict[str, Any] = {} if layout is None else {"layout": layout}
    if rank is not None:
        _deploy_at(layer, rank)
    options["dtype"] = dtype
    facts = {
        "file": str(output),
        "form": form,
        "opset": opset,
        **_written(layer, output, adapter_only, opset, form, options),
    }
    if as_json:
        click.echo(json.dumps(facts, indent=2))
        return
    if not adapter_only:
        found = ", ".join(facts["adapters"]) or "no adapters"
        click.echo(f"{output}: {form}, {facts['nodes']} nodes, {facts['bytes']:,} bytes ({found})")
    for file, size in facts.get("adapter_files", {}).items():
        click.echo(f"{file}: {size:,} bytes")


def _written(
    layer: lg.Layer, output: Path, adapter_only: bool, opset: int, form: str, options: dict[str, Any]
) -> dict[str, Any]:
    """Write a model and the adapter files beside it, or only these; what there is to say of them."""
    import lora_graph as lg
    from lora_graph.onnx.forms import form_of
    from lora_graph.onnx.forms.describe import describe_adapters

    adapters = [f"{a['path'] or 'model'}: {a['family']} rank {a['exported_rank']}" for a in describe_adapters(layer)]
    facts: dict[str, Any] = {"adapters": adapters}
    chosen = form_of(form)
    if adapter_only and not chosen.suffix:
        raise ValueError(f"--adapter-only: a model of the form {form} takes no adapter files")
    if not adapter_only:
        written = lg.export_onnx(layer, output, form=form, opset=opset, **options)
        facts |= {"nodes": len(written.graph.node), "bytes": output.stat().st_size}
    beside = output if adapter_only else output.with_suffix(chosen.suffix or output.suffix)
    names = chosen.files(layer)
    files = {beside if name is None else beside.with_suffix(f".{name}{beside.suffix}"): name for name in names}
    for path, name in files.items():
        lg.export_adapter(layer, path, name, form=form, **options)
    if files:
        facts["adapter_files"] = {str(path): path.stat().st_size for path in files}
    return facts


def _deploy_at(layer: lg.Layer, rank: int) -> None:
    """Let the DyLoRA adapters in ``layer`` work at ``rank``; ValueError if there is none, or for a rank it has not."""
    from lora_graph.adapters.dylora import DyLoRAAdapter

    found = [part for part in layer.places() if isinstance(part, DyLoRAAdapter)]
    if not found:
        raise ValueError(f"--rank is for DyLoRA adapters, and {layer.layer_name} has none")
    for adapter in found:
        adapter.set_deployment_rank(rank)


@click.command(short_help="Run an ONNX file on arrays.")
@MODEL
@click.argument("data", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Where the outputs go: an .npz file, or an .npy file for a single one.",
)
@click.option(
    "--adapter",
    type=click.Path(path_type=Path),
    help="An adapter file for a model that takes such: .onnx_adapter, or .safetensors for one of the form web.",
)
@click.option("--provider", default="cpu", show_default=True, help="ONNX Runtime provider: cpu, cuda ...")
@AS_JSON
def run(model: Path, data: Path, output: Path | None, adapter: Path | None, provider: str, as_json: bool) -> None:
    """Run MODEL, an ONNX file, on DATA: an .npy file, or an .npz file with one array for each input.

    Inputs that have a default, as the weights of the form weighted, may be in the file as well.
    """
    import lora_graph as lg
    from lora_graph.cli.arrays import plain, read_inputs, summary, write_arrays
    from lora_graph.layers.weights import read_safetensors

    with lg.Session(model, provider) as session:
        matrices, chosen = {}, None
        if adapter is not None and adapter.suffix == ".safetensors":
            matrices = read_safetensors(adapter)
        elif adapter is not None:
            chosen = session.load_adapter(adapter)
        needed = [name for name in session.inputs if name not in matrices]
        inputs = read_inputs(data, needed, list(session.optional_inputs))
        results = session.run({**inputs, **matrices}, chosen)
        outputs: dict[str, Any] = results if isinstance(results, dict) else {next(iter(session.outputs)): results}
        providers = session.providers
    if output is not None:
        write_arrays(output, outputs)
    facts = {"model": str(model), "providers": providers, "outputs": {n: summary(a) for n, a in outputs.items()}}
    if as_json:
        click.echo(json.dumps(plain(facts), indent=2, allow_nan=False))
        return
    for name, array in outputs.items():
        found = summary(array)
        numbers = f"min {found['min']:.6g}  mean {found['mean']:.6g}  max {found['max']:.6g}" if array.size else "empty"
        click.echo(f"{name}: {found['type']}  {numbers}")
    if output is not None:
        click.echo(f"written to {output}")
