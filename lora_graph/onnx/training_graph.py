"""Training steps as ONNX files, for any binding of ONNX Runtime to fine-tune a model where it is used."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lora_graph import checks
from lora_graph.files import require_writable
from lora_graph.ir.graph import Graph
from lora_graph.ir.leaves import Parameter
from lora_graph.ir.types import Array, TensorType, type_of
from lora_graph.ir.value import apply
from lora_graph.layers.layer import Layer
from lora_graph.layers.trace import Trace, trace
from lora_graph.onnx.model import IR_VERSIONS
from lora_graph.onnx.store import export_model
from lora_graph.rewrite.pipeline import optimize_graph
from lora_graph.train.graph import LOSS, NORM, RATE, TARGET, WEIGHTS
from lora_graph.train.loss import Loss
from lora_graph.train.mode import training_mode
from lora_graph.train.optimizer import Optimizer
from lora_graph.train.prepared import graphs_for
from lora_graph.train.settings import plain
from lora_graph.train.stateless import NEXT, parameters_as_inputs, stateless
from lora_graph.train.step import TrainingStep

TRAINING = "lora_graph.training"
"""The metadata with the contract of a training graph, as JSON."""


@dataclass(frozen=True)
class TrainingFiles:
    """The three models that fine-tune together."""

    step: Path
    """Takes data, learning rate and state; gives the loss, the norm of its gradient and the next state."""
    start: Path
    """Takes nothing; gives the state before the first step."""
    evaluation: Path
    """Takes inputs and the part of the state that the model itself has; gives the model's outputs."""


def export_training_graph(
    model: Layer,
    loss: Loss = "mse",
    optimizer: Optimizer | None = None,
    path: str | os.PathLike[str] = "training.onnx",
    *,
    output: str | None = None,
    target: TensorType | None = None,
    weights: bool = False,
    clip_norm: float | None = None,
    clip_value: float | None = None,
    opset: int = 21,
) -> TrainingFiles:
    """Write a training step of ``model`` as an ONNX model of standard ops, and two small models to go with it.

    ``path`` is the step. Its inputs are those of the model, ``target``, with ``weights=True`` also ``loss_weights``
    (one for each sample), ``learning_rate`` (a float64 number), what the layers draw (DyLoRA's ``rank``: true for the
    first b of its ranks; the masks of LoRA-drop), and every piece of state by its own name: the parameters that train,
    running statistics, the optimizer's moments and its count of steps. Its outputs are ``loss`` (before the step),
    ``gradient_norm`` and, for each piece of state, ``next/`` and its name: what goes in at the next step. Where loss or
    norm are not finite the caller keeps the state it has. What is frozen is part of the file.

    ``<stem>.start.onnx`` takes nothing and gives the state before the first step. ``<stem>.eval.onnx`` is the model in
    evaluation mode, with the pieces of state that it depends on as inputs; they are the parameters as they are, which
    ``model.assign`` takes back. The metadata of the step (``lora_graph.training``) say all of this as JSON.

    ``target`` is the type of targets where it does not follow from the loss: class numbers (int64) for
    ``"cross_entropy"``, else the type of the output. The opset is 21 to 26, weights over 1 GiB go to external data.
    ValueError for what :func:`lora_graph.fit` refuses, and for an op without an ONNX form.
    """
    checks.integer("opset", opset, min(IR_VERSIONS), max(IR_VERSIONS))
    training = TrainingStep(
        model, loss, optimizer, output=output, clip_norm=clip_norm, clip_value=clip_value, engine="numpy"
    )
    require_writable(path)
    with training_mode(model):
        traced = trace(model)
        predicted = traced.graph.outputs[training.output].type
        per_sample = predicted.with_shape(predicted.shape[:1]) if checks.flag("weights", weights) else None
        graphs = graphs_for(training, traced, target or _target(loss, predicted), per_sample)
    fixed = {name: training.base[name] for name in graphs.fixed}
    step = stateless(optimize_graph(graphs.step, "train-onnx").graph, fixed)
    labels = [name.removeprefix(NEXT) for name in step.outputs if name.startswith(NEXT)]
    state = {name: {**graphs.zeros(), **training.base}[name] for name in labels}
    evaluation, held = _evaluation(model, fixed)
    files = TrainingFiles(Path(path), Path(path).with_suffix(".start.onnx"), Path(path).with_suffix(".eval.onnx"))
    start = {name: apply(Parameter(f"start/{name}", type_of(array), False)) for name, array in state.items()}
    arrays = {f"start/{name}": array for name, array in state.items()}
    contract = json.dumps(_contract(training, traced, labels, weights))
    export_model(step, fixed, files.step, opset=opset, metadata={TRAINING: contract})
    export_model(evaluation, held, files.evaluation, opset=opset)
    export_model(Graph((), start, name="start"), arrays, files.start, opset=opset)
    return files


def _target(loss: Loss, predicted: TensorType) -> TensorType:
    return predicted.with_dtype(np.int64).with_shape(predicted.shape[:-1]) if loss == "cross_entropy" else predicted


def _evaluation(model: Layer, fixed: Mapping[str, Array]) -> tuple[Graph, dict[str, Array]]:
    """The model as it is used, what training changes being inputs, and what is part of the graph."""
    optimized = optimize_graph(parameters_as_inputs(model.to_graph(), fixed), "export")
    return optimized.graph, optimized.state(model.state)


def _contract(training: TrainingStep, traced: Trace, state: Sequence[str], weighted: bool) -> dict[str, Any]:
    """What each input and output of the step is."""
    drawn = [draw.label for draw in traced.draws]
    return {
        "data": [name for name in traced.graph.input_names if name not in drawn],
        "draws": drawn,
        "target": TARGET,
        "weights": WEIGHTS if weighted else None,
        "learning_rate": {RATE: training.optimizer.rate(0)},
        "loss": LOSS,
        "gradient_norm": NORM,
        "state": {f"{NEXT}{name}": name for name in state},
        "settings": {"loss": plain(training.loss), "optimizer": plain(training.optimizer)},
    }
