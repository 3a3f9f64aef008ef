"""Checkpoints: a training run on disk, from which another run goes on bit for bit."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lora_graph.errors import LoadError
from lora_graph.layers.weights import read_metadata, read_safetensors, save_weights
from lora_graph.train.history import History
from lora_graph.train.step import TrainingStep

KEY = "lora_graph.checkpoint"


@dataclass
class Position:
    """Where a run stands: the epoch and the step within it that come next, and what led there."""

    epoch: int = 0
    step: int = 0
    history: History = field(default_factory=History)


def save_checkpoint(path: str | Path, training: TrainingStep, position: Position, settings: dict[str, Any]) -> None:
    """Write parameters, optimizer state and position to a safetensors file, atomically."""
    content = {
        "count": training.count,
        "epoch": position.epoch,
        "step": position.step,
        "history": asdict(position.history),
        "settings": settings,
    }
    save_weights(training.state(), path, {KEY: json.dumps(content)})


def load_checkpoint(path: str | Path, training: TrainingStep, settings: dict[str, Any]) -> Position:
    """Restore ``training`` from a checkpoint; LoadError if it belongs to a run with other settings or shapes."""
    written = read_metadata(path).get(KEY)
    if written is None:
        raise LoadError(f"{path}: is no checkpoint of lora_graph")
    try:
        content = json.loads(written)
        theirs = content["settings"]
        position = Position(content["epoch"], content["step"], History(**content["history"]))
        count = int(content["count"])
    except (KeyError, TypeError, ValueError) as error:
        raise LoadError(f"{path}: its description cannot be read: {error}") from error
    changed = [name for name in settings if theirs.get(name) != json.loads(json.dumps(settings[name]))]
    if changed:
        name = changed[0]
        raise LoadError(f"{path}: was written with {name}={theirs.get(name)!r}, this run has {settings[name]!r}")
    tensors = read_safetensors(path)
    own = training.model.state
    for name, array in tensors.items():
        if name in own and (own[name].shape, own[name].dtype) != (array.shape, array.dtype):
            raise LoadError(
                f"{path}: {name} is {array.dtype}{list(array.shape)}, the model has {list(own[name].shape)}"
            )
    missing = [name for name in training.model.trainable_parameters() if name not in tensors]
    if missing:
        raise LoadError(f"{path}: lacks the parameter {missing[0]!r} that this model trains")
    training.restore(tensors, count)
    return position
