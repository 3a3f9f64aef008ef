"""ONNX: graphs to models, models to graphs, and models run by ONNX Runtime.

This package alone imports onnx, onnx_ir and onnxruntime, and only once one of its names is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

from lora_graph.ir.opaque import Opaque
from lora_graph.ir.types import Array

if TYPE_CHECKING:
    from lora_graph.onnx.export import export_adapter, export_onnx, load_onnx
    from lora_graph.onnx.importer import Imported, read_model
    from lora_graph.onnx.model import lower
    from lora_graph.onnx.session import Session
    from lora_graph.onnx.store import export_model, save_model
    from lora_graph.onnx.training_graph import TrainingFiles, export_training_graph

__all__ = [
    "Imported",
    "Session",
    "TrainingFiles",
    "export_adapter",
    "export_model",
    "export_onnx",
    "export_training_graph",
    "load_onnx",
    "lower",
    "read_model",
    "save_model",
]

_HOMES = {
    "Imported": "importer",
    "Session": "session",
    "TrainingFiles": "training_graph",
    "export_adapter": "export",
    "export_model": "store",
    "export_onnx": "export",
    "export_training_graph": "training_graph",
    "load_onnx": "export",
    "lower": "model",
    "read_model": "importer",
    "save_model": "store",
}


def _run(op: Opaque, arrays: Sequence[Array]) -> tuple[Array, ...]:
    from lora_graph.onnx.opaque import run

    return run(op, arrays)


Opaque.runner = staticmethod(_run)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
