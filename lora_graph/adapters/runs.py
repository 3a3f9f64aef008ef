"""Runs: a folder with an adapter that is being trained, and the place of its base."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lora_graph.adapters.adapted import DEFAULT, AdaptedModel
from lora_graph.errors import LoadError
from lora_graph.files import atomic_write
from lora_graph.onnx import load_onnx

RECORD, ADAPTER, CHECKPOINT = "run.json", "adapter.safetensors", "checkpoint.safetensors"


@dataclass(frozen=True)
class Run:
    """What ``run.json`` says: where the base is, seen from the folder, and which of its parameters train as well."""

    base: str
    unfreeze: list[str]

    def write(self, folder: Path) -> None:
        with atomic_write(folder / RECORD) as file:
            file.write((json.dumps(asdict(self), indent=2) + "\n").encode())

    @classmethod
    def read(cls, folder: Path) -> Run:
        """LoadError for a folder that ``lora-graph adapt`` did not make."""
        try:
            record: Any = json.loads((folder / RECORD).read_text())
        except OSError as error:
            raise LoadError(f"{folder}: not a run: {RECORD} cannot be read ({error.strerror or error})") from error
        except (ValueError, RecursionError) as error:
            raise LoadError(f"{folder / RECORD}: not JSON") from error
        is_record = isinstance(record, dict) and record.keys() == {"base", "unfreeze"}
        if not is_record or not isinstance(record["base"], str) or not isinstance(record["unfreeze"], list):
            raise LoadError(f"{folder / RECORD}: expected a record of base and unfreeze")
        return cls(record["base"], [str(name) for name in record["unfreeze"]])


def create(folder: Path, base: Path, model: AdaptedModel, unfreeze: list[str]) -> None:
    """A new run of ``model``, adapted from the file ``base``. FileExistsError if there is one in the folder."""
    require_new(folder)
    folder.mkdir(parents=True, exist_ok=True)
    save(folder, model)
    Run(os.path.relpath(base, folder), unfreeze).write(folder)


def require_new(folder: Path) -> None:
    """FileExistsError if there is a run in the folder."""
    if (folder / RECORD).exists():
        raise FileExistsError(f"{folder} holds a run already; choose another folder, or delete it")


def save(folder: Path, model: AdaptedModel) -> None:
    """Write each adapter of ``model`` to the folder of its run."""
    for name in model.adapters:
        model.save_adapter(_adapter_file(folder, name), name)


def _adapter_file(folder: Path, name: str) -> Path:
    return folder / (ADAPTER if name == DEFAULT else f"adapter.{name}.safetensors")


def load(folder: Path) -> AdaptedModel:
    """The adapted model of a run, as it was saved last."""
    run = Run.read(folder)
    base = folder / run.base
    if not base.exists():
        shown = os.path.normpath(base)
        raise LoadError(
            f"{folder}: its base {shown} is not there; put it back, or say in {folder / RECORD} where it is"
        )
    model = AdaptedModel(load_onnx(base), unfreeze=run.unfreeze)
    model.load_adapter(folder / ADAPTER)
    for path in sorted(folder.glob("adapter.*.safetensors")):
        model.load_adapter(path, path.name.split(".")[1])
    return model
