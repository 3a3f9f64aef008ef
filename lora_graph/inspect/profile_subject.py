"""What is profiled: a model on some inputs, made ready for each engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from lora_graph.inspect.cases import Case, cases
from lora_graph.inspect.cost import Costs
from lora_graph.inspect.engines import Given
from lora_graph.inspect.inspected import Inspected, Model
from lora_graph.inspect.profile_engines import NUMPY, RUNTIME, Engine, Numpy, OnnxRuntime
from lora_graph.interpret import compile_graph
from lora_graph.interpret.signature import Signature
from lora_graph.ir.graph import Graph
from lora_graph.ir.types import Array
from lora_graph.layers.interface import by_name
from lora_graph.onnx.export import export_onnx
from lora_graph.onnx.model import lower
from lora_graph.onnx.source import ModelSource
from lora_graph.rewrite.pipeline import optimize_graph

BATCH = 64
"""Samples, unless sizes say otherwise."""


class Subject(Protocol):
    """A computation to be profiled."""

    @property
    def label(self) -> str: ...

    @property
    def run_at(self) -> str:
        """The sizes of the named dimensions, and what else is particular about the runs."""

    @property
    def notes(self) -> list[str]: ...

    def engine(self, name: str, threads: int) -> Engine:
        """The engine ``name`` with the computation in it; ValueError where it cannot run it."""


@dataclass(frozen=True)
class Evaluation:
    """A model as it is used: its evaluation graph, run on some inputs."""

    looked: Inspected
    model: Model
    case: Case

    @classmethod
    def of(
        cls, model: Model, state: Mapping[str, Array] | None, sizes: Mapping[str, int] | None, inputs: Any, seed: int
    ) -> Evaluation:
        looked = Inspected.of(model, state=state, sizes=sizes)
        if inputs is not None:
            given = by_name(looked.graph.input_names, inputs, "input")
            return cls(looked, model, Case("", Given({name: np.asarray(array) for name, array in given.items()})))
        rng = np.random.default_rng(seed)
        return cls(looked, model, next(cases(looked.graph, looked.metadata, [BATCH], looked.given, rng)))

    @property
    def label(self) -> str:
        return self.looked.label

    @property
    def run_at(self) -> str:
        """The sizes of the named dimensions, and what is particular about the case."""
        sizes = ", ".join(f"{name} = {size}" for name, size in self._bound(self.looked).items())
        return ", ".join(filter(None, (sizes or "fixed sizes", self.case.label.partition(", ")[2])))

    @property
    def notes(self) -> list[str]:
        """What is not counted."""
        unknown = Costs(self.looked.graph, {}).unknown
        return [f"{self.label}: the operations of {count} × {op} are not known" for op, count in unknown.items()]

    @cached_property
    def _source(self) -> ModelSource:
        """The model as ONNX Runtime gets it: a layer or a graph is exported."""
        looked = self.looked
        if looked.layer is not None:
            return export_onnx(looked.layer)
        return lower(looked.graph, looked.state) if isinstance(self.model, Graph) else self.model

    @cached_property
    def _written(self) -> Inspected:
        """What the source computes."""
        return self.looked if self._source is self.model else Inspected.of(self._source)

    def engine(self, name: str, threads: int) -> Engine:
        """The engine ``name`` with the model in it; ValueError where it cannot run it."""
        given, looked = self.case.given, self.looked
        if name == NUMPY:
            optimized = optimize_graph(looked.graph, "inference")
            state = optimized.state({**looked.state, **given.overrides})
            costs = Costs(optimized.graph, {**looked.binding, **self._bound(looked)})
            return Numpy(compile_graph(optimized.graph), given.inputs, state, costs)
        feeds = {**given.inputs, **given.overrides}
        costs = Costs(self._written.graph, {**self._written.binding, **self._bound(self._written)})
        return OnnxRuntime(self._source, costs, feeds, threads=threads, optimize=name == RUNTIME)

    def _bound(self, looked: Inspected) -> dict[str, int]:
        """The sizes that the inputs give to named dimensions."""
        signature, given = Signature(looked.graph), self.case.given
        return dict(signature.bind(signature.arrays(given.inputs, {**looked.state, **given.overrides})))
