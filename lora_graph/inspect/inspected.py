"""A model as it is looked at: its graph and arrays, and which of them belong to adapters."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import onnx

from lora_graph import checks
from lora_graph.adapters import runs
from lora_graph.errors import LoadError
from lora_graph.inspect.built_in import DRAWN, FIXED, NAMES, built_in
from lora_graph.inspect.cases import slots_of
from lora_graph.inspect.engines import input_types
from lora_graph.inspect.sizes import OTHER_SIZE, binding_of, names_of
from lora_graph.ir import dims
from lora_graph.ir.graph import Graph
from lora_graph.ir.types import Array, TensorType, TupleType
from lora_graph.layers.imported import ADAPTERS, ImportedLayer, read_adapters
from lora_graph.layers.layer import Layer
from lora_graph.onnx.forms.describe import describe_adapters
from lora_graph.onnx.importer import read_model
from lora_graph.onnx.source import ModelSource, Script
from lora_graph.ops.prefix import SliceTo

Model = Layer | Graph | ModelSource


@dataclass(frozen=True)
class Inspected:
    """``graph`` is what a model computes, before any rewriting, and ``state`` the arrays of its parameters.

    A graph by itself has no state. ``records`` tell of each adapter what an exported file does (family, rank, names of
    parameters); ``adapters`` are the names of all parameters, and of inputs, that hold one.
    """

    label: str
    graph: Graph
    state: Mapping[str, Array]
    records: tuple[Mapping[str, Any], ...] = ()
    adapters: frozenset[str] = frozenset()
    layer: Layer | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    opset: int | None = None
    """Of the file that it was read from."""
    given: Mapping[str, int] = field(default_factory=dict)
    """Sizes of named dimensions that were asked for."""

    @classmethod
    def of(
        cls, model: Model, *, state: Mapping[str, Array] | None = None, sizes: Mapping[str, int] | None = None
    ) -> Inspected:
        """A layer; a graph, with its ``state`` if there is one; an ONNX model of any kind; or a path or name:

        of an ONNX file, of the folder of a run, or of a built-in layer such as ``"DenseLayer"`` where there is no such
        file. ``sizes`` are those of named dimensions, and for a built-in layer those that its constructor takes.
        LoadError for what cannot be read, ValueError for sizes of what the model does not have.
        """
        if sizes is not None and not isinstance(sizes, Mapping):
            raise TypeError(f"sizes must be a dict of sizes by the names of dimensions, got {sizes!r}")
        given = {name: checks.integer(f"sizes[{name!r}]", size, 0) for name, size in (sizes or {}).items()}
        if state is not None and not isinstance(model, Graph):
            raise TypeError(f"state belongs to a Graph, got it with {type(model).__name__}")
        if isinstance(model, Graph):
            found = cls(model.name, model, dict(state or {}), given=given)
        elif isinstance(model, Layer):
            found = cls._of_layer(model, model.layer_name, given)
        elif isinstance(model, str | os.PathLike):
            found = cls._of_path(Path(model), given)
        elif isinstance(model, bytes | bytearray | memoryview | onnx.ModelProto | Script):
            found = cls._of_model(model, given)
        else:
            known = "a Layer, a Graph, a path, bytes, an onnx.ModelProto or an onnxscript function"
            raise TypeError(f"a model is {known}, not {type(model).__name__}")
        found._check_sizes()
        return found

    @classmethod
    def _of_layer(cls, layer: Layer, label: str, given: Mapping[str, int]) -> Inspected:
        records = describe_adapters(layer)
        graph, metadata = layer.to_graph(), layer.metadata if isinstance(layer, ImportedLayer) else {}
        names = _adapter_names(graph, records, metadata)
        return cls(label, graph, layer.state, tuple(records), names, layer, metadata, given=given)

    @classmethod
    def _of_path(cls, path: Path, given: Mapping[str, int]) -> Inspected:
        if path.is_dir():
            return cls._of_layer(runs.load(path), str(path), given)
        if str(path) in NAMES and not path.exists():
            own = DRAWN.get(str(path)) or FIXED[str(path)]
            others = {name: size for name, size in given.items() if name not in own}
            return cls._of_layer(built_in(str(path), given), str(path), others)
        if not path.exists() and not path.suffix:
            raise LoadError(f"{path}: neither a file nor a folder, nor a built-in layer: {', '.join(NAMES)}")
        return cls._of_model(path, given)

    @classmethod
    def _of_model(cls, source: ModelSource, given: Mapping[str, int]) -> Inspected:
        read = read_model(source)
        records = read_adapters(read.metadata.get(ADAPTERS, "[]"))
        names = _adapter_names(read.graph, records, read.metadata)
        label = str(source) if isinstance(source, str | os.PathLike) else read.graph.name
        return cls(label, read.graph, read.state, tuple(records), names, None, read.metadata, read.opset, given)

    @cached_property
    def binding(self) -> dict[str, int]:
        """A size for every named dimension: as given, as in the state, 1 for a batch, all of what is cut, else 16."""
        known = dict(self.given)
        for name, leaf in self.graph.parameters.items():
            if name in self.state:
                dims.fits(leaf.shape, self.state[name].shape, known)
        types = list(input_types(self.graph).values())
        binding = binding_of(types, known, self.graph, batch=1)
        for value in self.graph.values:
            if isinstance(value.op, SliceTo):
                _cut(value.op, value.operands[0].type, binding, self.given)
        return {**dict.fromkeys(sorted(self._names), OTHER_SIZE), **binding}

    @cached_property
    def _names(self) -> set[str]:
        """Every name in the dimensions of a Value."""
        kinds = {value.result_type for value in self.graph.values}
        return names_of(item for kind in kinds for item in (kind.items if isinstance(kind, TupleType) else (kind,)))

    def _check_sizes(self) -> None:
        unknown = sorted(self.given.keys() - self._names) if self.given else []
        if unknown:
            known = ", ".join(sorted(self._names)) or "none"
            raise ValueError(f"sizes: {self.label} has no dimension called {unknown[0]!r}; it has {known}")


def _adapter_names(graph: Graph, records: Iterable[Mapping[str, Any]], metadata: Mapping[str, str]) -> frozenset[str]:
    """The parameters of the adapters there are, and what a model takes of adapters at run time."""
    return frozenset(name for record in records for name in record["parameters"]) | slots_of(graph, metadata).keys()


def _cut(op: SliceTo, x: TensorType, binding: dict[str, int], given: Mapping[str, int]) -> None:
    """Let the name of a size that is chosen at run time be the largest that it can."""
    name, size = dims.plain_name(op.size), x.shape[op.axis]
    if name is not None and name not in given and set(dims.names(size)) <= binding.keys():
        most = dims.evaluate(size, binding)
        binding[name] = min(most, binding.get(name, most))
