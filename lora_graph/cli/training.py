"""The commands that adapt a model and train it. Each imports what it needs when it runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from lora_graph.cli.commands import AS_JSON, DTYPE, MODEL, OPSET, OUTPUT, RANK, export

RUN = click.argument("run", type=click.Path(exists=True, file_okay=False, path_type=Path))


@click.command(short_help="Put adapters on an ONNX model.")
@MODEL
@click.option(
    "-o",
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    help="The folder of the new run.  [required]",
)
@click.option(
    "--targets",
    multiple=True,
    default=("all-linear",),
    show_default=True,
    help="Weights or modules to adapt: a name, its end, or a glob; may be given several times.",
)
@click.option("--exclude", multiple=True, help="Weights or modules to leave out.")
@click.option("--adapter", default="lora", show_default=True, help="The family: lora, dora, dylora, lokr, lora_drop.")
@click.option("--rank", type=int, default=8, show_default=True, help="Below both widths of each weight, but for lokr.")
@click.option("--alpha", type=float, default=-1.0, help="Numerator of the scale.  [default: the rank]")
@click.option(
    "--rank-pattern", multiple=True, metavar="PATTERN=RANK", help="Another rank for what matches, as '*query*=4'."
)
@click.option("--alpha-pattern", multiple=True, metavar="PATTERN=ALPHA", help="Another alpha for what matches.")
@click.option("--ranks", help="Active ranks of dylora, such as 1,2,4,8.")
@click.option("--dropout", type=float, help="Dropout rate of lora_drop.")
@click.option("--unfreeze", multiple=True, help="Parameters of the model that train as well, as names or globs.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of the first matrices.")
@click.option("--list", "only_list", is_flag=True, help="Only list what could be adapted.")
@AS_JSON
def adapt(
    model: Path,
    output: Path | None,
    targets: tuple[str, ...],
    exclude: tuple[str, ...],
    adapter: str,
    rank: int,
    alpha: float,
    rank_pattern: tuple[str, ...],
    alpha_pattern: tuple[str, ...],
    ranks: str | None,
    dropout: float | None,
    unfreeze: tuple[str, ...],
    seed: int,
    only_list: bool,
    as_json: bool,
) -> None:
    """Put adapters on MODEL, an ONNX file, and write a run that `lora-graph train` goes on with."""
    import lora_graph as lg
    from lora_graph.adapters import runs
    from lora_graph.adapters.targets import targets as targets_of

    options: dict[str, Any] = {
        "rank_pattern": _pairs("--rank-pattern", rank_pattern, int),
        "alpha_pattern": _pairs("--alpha-pattern", alpha_pattern, float),
    }
    for option, family, name, value in (
        ("--ranks", "dylora", "active_ranks", None if ranks is None else _ints("--ranks", ranks)),
        ("--dropout", "lora_drop", "dropout_rate", dropout),
    ):
        if (value is not None) != (adapter == family):
            problem = f"belongs to --adapter {family}" if value is not None else f"is missing for --adapter {family}"
            raise click.UsageError(f"{option} {problem}.")
        if value is not None:
            options[name] = value
    base = lg.load_onnx(model)
    if only_list:
        found = targets_of(base)
        if as_json:
            click.echo(json.dumps([{"name": t.name, "kind": t.kind, "shape": t.shape} for t in found], indent=2))
        else:
            click.echo("\n".join(map(str, found)) or "nothing that could be adapted")
        return
    if output is None:
        raise click.UsageError("Missing option '-o' / '--output'.")
    made = lg.adapt(
        base,
        adapter,
        targets=targets,
        exclude=exclude,
        rank=rank,
        alpha=alpha,
        unfreeze=unfreeze,
        rng=seed,
        **options,
    )
    runs.create(output, model, made, list(unfreeze))
    places = [site.label for site in made.adapters["default"].sites]
    trained, total = made.parameter_count, sum(array.size for array in made.state.values())
    if as_json:
        click.echo(json.dumps({"run": str(output), "weights": places, "trained": trained, "total": total}, indent=2))
        return
    click.echo(f"{output}: {adapter} of rank {rank} at {len(places)} weights")
    click.echo(f"{trained:,} of {total:,} parameters train ({trained / total:.2%})")


@click.command(short_help="Train the adapters of a run.")
@RUN
@click.option("--data", type=click.Path(path_type=Path), required=True, help="An .npz file of inputs and targets.")
@click.option("--loss", default="mse", show_default=True, help="mse, cross_entropy or binary_cross_entropy.")
@click.option("--output", help="The output that the loss applies to, where the model has several.")
@click.option("--epochs", type=int, default=1, show_default=True, help="Passes over the data.")
@click.option("--batch-size", type=int, default=32, show_default=True, help="Samples a batch.")
@click.option(
    "--optimizer",
    type=click.Choice(["adamw", "adam", "sgd"]),
    default="adamw",
    show_default=True,
    help="How steps follow from gradients.",
)
@click.option("--lr", type=float, default=1e-3, show_default=True, help="Learning rate.")
@click.option("--clip-norm", type=float, help="Limit on the norm of the gradient.")
@click.option("--accumulate", type=int, default=1, show_default=True, help="Batches a step.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of the order and of draws.")
@click.option(
    "--engine",
    type=click.Choice(["auto", "onnxruntime", "numpy"]),
    default="auto",
    show_default=True,
    help="What runs the steps; auto is the fastest that has a kernel for every op.",
)
@click.option("--provider", type=click.Choice(["cpu", "cuda"]), help="Where ONNX Runtime runs.  [default: the faster]")
@click.option("--threads", type=click.IntRange(1), help="Threads of one op.  [default: OMP_NUM_THREADS, or all cores]")
@click.option(
    "--memory",
    type=click.Choice(["normal", "low"]),
    default="normal",
    show_default=True,
    help="low: compute cheap activations again rather than keep them.",
)
@click.option("--cache-frozen", is_flag=True, help="Run what is frozen once for each sample, not in every epoch.")
@click.option("--resume", is_flag=True, help="Go on from the checkpoint of an interrupted training.")
@AS_JSON
def train(run: Path, data: Path, optimizer: str, lr: float, resume: bool, as_json: bool, **settings: Any) -> None:
    """Train the adapters of RUN, a folder made by `lora-graph adapt`, and save them in it.

    The data file holds the arrays 'inputs' and 'targets', or 'targets' and each input of the model under its own name,
    and may hold 'weights', one for each target or sample. Labels of -100 are left out.

    Interrupted, it leaves a checkpoint in the folder that --resume goes on from.
    """
    import lora_graph as lg
    from lora_graph.adapters import runs

    model = runs.load(run)
    made = {"adamw": lg.AdamW, "adam": lg.Adam, "sgd": lg.SGD}[optimizer](lr)
    checkpoint = run / runs.CHECKPOINT
    if resume and not checkpoint.exists():
        click.echo(f"{run} has no checkpoint: training starts anew", err=True)
    try:
        history = lg.fit(model, str(data), optimizer=made, checkpoint=checkpoint, resume=resume, **settings)
    except KeyboardInterrupt:
        if checkpoint.exists():
            click.echo(f"{checkpoint} holds what was trained so far: --resume goes on from there", err=True)
        raise
    runs.save(run, model)
    checkpoint.unlink(missing_ok=True)
    facts = {
        "run": str(run),
        "steps": history.steps,
        "epoch_losses": history.epoch_losses,
        "samples_per_second": history.samples_per_second,
        "seconds": history.seconds,
        "engine": history.engine,
        "why": history.why,
    }
    if as_json:
        click.echo(json.dumps(facts, indent=2))
        return
    for epoch, loss in enumerate(history.epoch_losses, 1):
        click.echo(f"epoch {epoch}: loss {loss:.6g}")
    click.echo(
        f"{history.steps} steps in {history.seconds:.1f} s, {history.samples_per_second:,.0f} samples/s "
        f"({history.engine}, {history.why}); saved in {run / runs.ADAPTER}"
    )


@click.command(short_help="Merge a run into its base.")
@RUN
@OUTPUT
@RANK
@DTYPE
@OPSET
@AS_JSON
def merge(run: Path, **options: Any) -> None:
    """Write the model of RUN with its adapters merged into the weights; the same as `export RUN --form merged`."""
    click.get_current_context().invoke(export, model=run, form="merged", **options)


def _ints(name: str, text: str) -> list[int]:
    try:
        return [int(item) for item in text.split(",")]
    except ValueError as error:
        raise ValueError(f"{name} must be ints with commas between, such as 1,2,4, got {text!r}") from error


def _pairs(name: str, texts: tuple[str, ...], kind: type[int] | type[float]) -> dict[str, Any]:
    """What ``PATTERN=NUMBER`` says; the pattern may have an equals sign itself."""
    found = {}
    for text in texts:
        pattern, _, number = text.rpartition("=")
        try:
            found[pattern] = kind(number)
        except ValueError:
            pattern = ""
        if not pattern:
            raise ValueError(f"{name} must be a pattern and a number, such as '*query*=4', got {text!r}")
    return found
