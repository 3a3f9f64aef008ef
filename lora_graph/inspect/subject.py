"""A model as it is checked: what it is to compute, the file that ONNX Runtime gets, and how it can be merged."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from lora_graph.errors import MergeError
from lora_graph.inspect.engines import Program
from lora_graph.layers.imported import FORM, ImportedLayer
from lora_graph.layers.layer import Layer
from lora_graph.onnx.export import export_onnx
from lora_graph.onnx.forms.describe import describe_adapters
from lora_graph.onnx.importer import read_model
from lora_graph.onnx.source import ModelSource


def label_of(model: Layer | ModelSource) -> str:
    """What to call a model in a report: a layer's name, a file's path."""
    if isinstance(model, Layer):
        return model.layer_name
    return os.fspath(model) if isinstance(model, str | os.PathLike) else "the model"


@dataclass(frozen=True)
class Subject:
    """``program`` is what the model is to compute, and ``written`` what the model ``source`` does, as it is read."""

    label: str
    program: Program
    source: ModelSource
    written: Program
    metadata: Mapping[str, str]
    layer: Layer | None
    """What can be merged: a layer, or a model of parallel form as one."""

    @classmethod
    def of(cls, model: Layer | ModelSource) -> Subject:
        """An ONNX model as it is; a layer with its graph before any rewriting, and exported."""
        if isinstance(model, Layer):
            source = export_onnx(model)
            read = read_model(source)
            program = Program(model.to_graph(), model.state)
            return cls(label_of(model), program, source, Program(read.graph, read.state), read.metadata, model)
        read = read_model(model)
        program = Program(read.graph, read.state)
        is_parallel = read.metadata.get(FORM) == "parallel"
        layer = ImportedLayer(read.graph, read.state, read.metadata) if is_parallel else None
        return cls(label_of(model), program, model, program, read.metadata, layer)

    def merged(self) -> tuple[ModelSource | None, str]:
        """The model with its adapters merged, where it has such; or why they cannot be."""
        if self.layer is None or not describe_adapters(self.layer):
            return None, ""
        try:
            return export_onnx(self.layer, form="merged"), ""
        except MergeError as error:
            return None, f"not compared with a merged model: {error}"
