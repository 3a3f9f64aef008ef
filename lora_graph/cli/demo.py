"""The demo: a digit classifier meets a changed task, and every adapter brings it back."""

from __future__ import annotations

import copy
import json
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

import lora_graph as lg
from lora_graph.cli.demo_models import MODELS, DemoModel
from lora_graph.cli.progress import Stages
from lora_graph.data import changed_task, split
from lora_graph.files import atomic_write
from lora_graph.ir.types import Array

EPOCHS, BATCH = 30, 64
DROPOUT = 0.1
RATE = 1e-2
REPEATS = 200

Wrap = Callable[[lg.Layer, int], lg.Adapter]


@dataclass(frozen=True)
class Row:
    """One model of the table."""

    name: str
    trained: int
    """Parameters that are used and were trained for the changed task."""
    share: float
    """These as a share of the base network's parameters."""
    before: float
    after: float
    """Accuracy on held-out images of the changed task."""
    difference: float
    """Largest difference of any output between interpreter, parallel and merged model in ONNX Runtime."""
    files: tuple[str, ...]
    bytes: int
    """Size of the merged file."""
    latency_us: float
    """Median time of the merged model for one image in ONNX Runtime, one thread."""


@dataclass(frozen=True)
class DemoResult:
    """What the demo found."""

    model: str
    seed: int
    out: str
    original_accuracy: float
    rows: tuple[Row, ...]
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Task:
    """Images and labels of one task, to train on and held out."""

    images: Array
    labels: Array
    held_out: Array
    held_out_labels: Array

    def accuracy(self, outputs: Array) -> float:
        return float((outputs.argmax(axis=-1) == self.held_out_labels).mean())


def tasks(model: DemoModel, seed: int) -> tuple[Task, Task]:
    """The digits as they are, and the digits turned and inverted."""
    train, held_out = split(seed)

    def task(change: Callable[[Array], Array]) -> Task:
        images, unseen = (model.images(change(part.images)) for part in (train, held_out))
        return Task(images, train.labels, unseen, held_out.labels)

    return task(lambda images: images), task(changed_task)


def adapters(model: DemoModel, seed: int) -> dict[str, Wrap]:
    """How each family is put on a layer; ``site="weight"``, so that merging is exact behind every activation."""
    rank, ranks, kronecker = model.rank, model.ranks, model.kronecker
    return {
        "LoRA": lambda base, i: lg.StandardLoRAAdapter(base, rank, 2 * rank, site="weight", rng=seed + i),
        "DyLoRA": lambda base, i: lg.DyLoRAAdapter(base, ranks[-1], ranks, 2 * ranks[-1], site="weight", rng=seed + i),
        "LoKr": lambda base, i: lg.LoKrAdapter(base, kronecker, 2 * kronecker, site="weight", rng=seed + i),
        "LoRA-drop": lambda base, i: lg.LoRADropAdapter(
            base, rank, DROPOUT, 2 * rank, seed=seed + i, inference_scaling="none", site="weight"
        ),
    }


def adapted(base: lg.Sequential, wrap: Wrap) -> lg.Sequential:
    """``base`` with an adapter on every layer that has weights."""
    with warnings.catch_warnings():
        # that a single input channel cannot be factored is no news here
        warnings.filterwarnings("ignore", message=".*Kronecker", category=UserWarning)
        layers = [wrap(layer, i) if layer.own else layer for i, layer in enumerate(base.layers)]
    return lg.Sequential(layers, input_shape=base.input_shape)


def run_demo(out: Path, seed: int = 0, model: str = "mlp") -> DemoResult:
    """Train, adapt, export and check a network; write the ONNX files and ``results.json`` to ``out``.

    BLAS gets one thread: the numbers depend on how many there are, and products this small gain nothing from more.
    """
    with threadpool_limits(1):
        return _run(out, seed, model)


def _run(out: Path, seed: int, name: str) -> DemoResult:
    started = time.perf_counter()
    out.mkdir(parents=True, exist_ok=True)
    model = MODELS[name]
    original, changed = tasks(model, seed)
    families = adapters(model, seed)
    with Stages(2 + len(families)) as stages:
        stages.begin("training the base network on digits as they are")
        base = model.build(seed)
        train(base, original, seed, model.rate)
        stages.begin("fine-tuning everything for the changed task, for comparison")
        full = copy.deepcopy(base)
        train(full, changed, seed, model.rate)
        before = changed.accuracy(base.eval().forward(changed.held_out))
        rows = [
            measure("base, unadapted", base, 0, base, changed, before, out / "base"),
            measure("full fine-tuning", full, full.parameter_count, base, changed, before, out / "full"),
        ]
        for family, wrap in families.items():
            stages.begin(f"adapting with {family}")
            rows += adapt(family, wrap, base, changed, before, seed, out)
    found = original.accuracy(base.forward(original.held_out))
    result = DemoResult(name, seed, str(out), found, tuple(rows), time.perf_counter() - started)
    write_results(result, out / "results.json")
    return result


def train(model: lg.Layer, task: Task, seed: int, rate: float) -> None:
    data = (task.images, task.labels)
    optimizer = lg.Adam(lg.CosineSchedule(rate, EPOCHS * -(-len(task.images) // BATCH)))
    lg.fit(
        model, data, loss="cross_entropy", optimizer=optimizer, epochs=EPOCHS, batch_size=BATCH, seed=seed, threads=1
    )


def adapt(name: str, wrap: Wrap, base: lg.Sequential, task: Task, before: float, seed: int, out: Path) -> list[Row]:
    """Adapters of one family on every layer of the frozen base: one row, or for DyLoRA one for each rank."""
    model = adapted(base, wrap)
    train(model, task, seed, RATE)
    model.eval()
    stem = name.lower().replace("-", "_")
    layers = [layer for layer in model if isinstance(layer, lg.DyLoRAAdapter)]
    if not layers:
        return [measure(name, model, model.parameter_count, base, task, before, out / stem)]
    rows = []
    for rank in layers[0].active_ranks:
        for layer in layers:
            layer.set_deployment_rank(rank)
        used = model.parameter_count * rank // layers[0].max_rank
        rows.append(measure(f"{name} rank {rank}", model, used, base, task, before, out / f"{stem}_rank{rank}"))
    return rows


def measure(name: str, model: lg.Layer, trained: int, base: lg.Layer, task: Task, before: float, stem: Path) -> Row:
    """Export in both forms (one for a model without adapters), run in ONNX Runtime, compare."""
    plain = not any(isinstance(layer, lg.Adapter) for layer in model.places())
    forms = (
        {"merged": stem.with_suffix(".onnx")}
        if plain
        else {
            "parallel": stem.with_suffix(".onnx"),
            "merged": stem.with_name(f"{stem.name}_merged.onnx"),
        }
    )
    outputs = [model.eval().forward(task.held_out)]
    for form, path in forms.items():
        lg.export_onnx(model, path, form=form)
        outputs.append(lg.Session(path, threads=1).run(task.held_out))
    spread = np.max(outputs, axis=0) - np.min(outputs, axis=0)
    merged = forms["merged"]
    return Row(
        name=name,
        trained=trained,
        share=trained / sum(array.size for array in base.state.values()),
        before=before,
        after=task.accuracy(outputs[-1]),
        difference=float(spread.max()),
        files=tuple(path.name for path in forms.values()),
        bytes=merged.stat().st_size,
        latency_us=latency(merged, task.held_out[:1]),
    )


def latency(path: Path, x: Array) -> float:
    session = lg.Session(path, threads=1)
    times = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        session.run(x)
        times.append(time.perf_counter() - started)
    return statistics.median(times) * 1e6


def write_results(result: DemoResult, path: Path) -> None:
    """The part of the result that is the same each time."""
    rows = [{k: v for k, v in asdict(row).items() if k not in ("latency_us", "difference")} for row in result.rows]
    content = {"model": result.model, "seed": result.seed, "original_accuracy": result.original_accuracy, "rows": rows}
    with atomic_write(path) as file:
        file.write((json.dumps(content, indent=2) + "\n").encode())
