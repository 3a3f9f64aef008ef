"""Checkpoints: a training run on disk, from which another run goes on bit for bit."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lora_graph.errors import LoadError
from lora_graph.ir.types import Array, type_of
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
    state = training.state()
    content = {
        "epoch": position.epoch,
        "step": position.step,
        "history": asdict(position.history),
        "settings": settings,
        "tensors": _types(state),
    }
    save_weights(state, path, {KEY: json.dumps(content)})


def load_checkpoint(path: str | Path, training: TrainingStep, settings: dict[str, Any]) -> Position:
    """Restore ``training`` from a checkpoint.

    It goes on with the engine that it was trained on. LoadError if it cannot be read, if it belongs to a run with other
    settings (it names the first that differs) or to an engine that this one cannot have, or if its tensors are not
    those that were written.
    """
    written = read_metadata(path).get(KEY)
    if written is None:
        raise LoadError(f"{path}: is no checkpoint of lora_graph")
    try:
        content = json.loads(written)
        theirs, types = dict(content["settings"]), dict(content["tensors"])
        position = Position(int(content["epoch"]), int(content["step"]), History(**content["history"]))
        count = len(position.history.losses)
    except (KeyError, TypeError, ValueError) as error:
        raise LoadError(f"{path}: its description cannot be read: {error!r}") from error
    for name in settings:
        if theirs.get(name) != settings[name]:
            raise LoadError(f"{path}: was written with {name}={theirs.get(name)!r}, this run has {settings[name]!r}")
    if position.history.losses:
        try:
            training.choice.insist(position.history.engine)
        except ValueError as error:
            raise LoadError(f"{path}: {error}") from error
    tensors = read_safetensors(path)
    _check(path, tensors, {**types, **_types(training.state())})
    training.restore(tensors, count)
    return position


def _types(arrays: Mapping[str, Array]) -> dict[str, str]:
    return {name: str(type_of(array)) for name, array in arrays.items()}


def _check(path: str | Path, tensors: Mapping[str, Array], wanted: Mapping[str, str]) -> None:
    """LoadError unless the tensors have these names and types, and finite numbers."""
    found = _types(tensors)
    for name in sorted({*found, *wanted}):
        if found.get(name) != wanted.get(name):
            raise LoadError(f"{path}: {name} should be {wanted.get(name, 'absent')}, it is {found.get(name, 'absent')}")
        if not np.isfinite(tensors[name]).all():
            raise LoadError(f"{path}: {name} is not finite")
