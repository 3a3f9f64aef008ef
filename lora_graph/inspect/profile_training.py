"""A training step to be profiled: forward, loss, backward and optimizer, on a random batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from lora_graph.inspect.cost import Costs
from lora_graph.inspect.draw import Drawing
from lora_graph.inspect.inspected import Inspected, Model
from lora_graph.inspect.profile_engines import NUMPY, RUNTIME, Engine, Numpy, OnnxRuntime
from lora_graph.inspect.profile_subject import BATCH
from lora_graph.inspect.sizes import OTHER_SIZE, names_of
from lora_graph.interpret.run import Program
from lora_graph.ir.graph import Graph, Note
from lora_graph.ir.leaves import Input, Parameter
from lora_graph.ir.types import Array, TensorType
from lora_graph.ir.value import topological
from lora_graph.layers.imported import ImportedLayer
from lora_graph.layers.interface import Feed, by_name, feed
from lora_graph.layers.layer import Layer
from lora_graph.onnx.importer import read_model
from lora_graph.onnx.model import lower
from lora_graph.rewrite.pipeline import optimize_graph
from lora_graph.train.data import Batch
from lora_graph.train.draws import seeded
from lora_graph.train.graph import LOSS, RATE
from lora_graph.train.loss import Loss
from lora_graph.train.mode import training_mode
from lora_graph.train.optimizer import Optimizer
from lora_graph.train.prepared import Prepared
from lora_graph.train.stateless import stateless
from lora_graph.train.step import TrainingStep

OWN_STATE = "optimizer."
"""What the names of an optimizer's state begin with."""


@dataclass(frozen=True)
class Training:
    """A step of training a model from where it is. It is run again and again from there; nothing of it is kept."""

    label: str
    owner: TrainingStep
    prepared: Prepared
    fed: Feed
    inputs: Mapping[str, Array]
    notes: list[str]

    @classmethod
    def of(
        cls,
        model: Model,
        sizes: Mapping[str, int] | None,
        inputs: Any,
        seed: int,
        loss: Loss,
        optimizer: Optimizer | None,
    ) -> Training:
        """TypeError for a graph, which does not say what to train."""
        looked = Inspected.of(model, sizes=sizes)
        layer = _layer(model, looked)
        rng = np.random.default_rng(seed)
        if inputs is None:
            inputs = Drawing(looked.graph, looked.given, rng).inputs(BATCH)
        fed = feed(layer, by_name(looked.graph.input_names, inputs, "input"), "inputs")
        owner = TrainingStep(layer, loss, optimizer, engine="numpy")
        kind = looked.graph.outputs[owner.output].type.bind({**looked.binding, **fed.binding})
        batch = Batch.of((fed.arrays, _targets(kind, loss, rng)))
        with training_mode(layer):
            prepared = Prepared.build(owner, fed.types, batch, fed.binding)
        given = prepared.inputs(fed, batch, seeded(seed, 0), {})
        return cls(looked.label, owner, prepared, fed, {**given, RATE: np.asarray(owner.optimizer.rate(0))}, [])

    @property
    def run_at(self) -> str:
        sizes = ", ".join(f"{name} = {size}" for name, size in self.fed.binding.items())
        loss = self.owner.loss if isinstance(self.owner.loss, str) else "a loss of its own"
        return f"{sizes or 'fixed sizes'}, a training step ({loss}, {type(self.owner.optimizer).__name__})"

    @cached_property
    def _state(self) -> dict[str, Array]:
        """The model's arrays, and the optimizer's before the first step."""
        return {**self.owner.base, **self.prepared.graphs.zeros()}

    def engine(self, name: str, threads: int) -> Engine:
        if name == NUMPY:
            program = self.prepared.step
            assert isinstance(program, Program)
            return Numpy(program, self._given(program.graph), self._state, self._costs(program.graph), reuse=True)
        graphs = self.prepared.graphs
        graph = optimize_graph(graphs.step, "train-onnx").graph
        fixed = {name: self._state[name] for name in graphs.fixed if name in graph.parameters}
        model = lower(stateless(graph, fixed), fixed)
        written = read_model(model).graph
        return OnnxRuntime(model, self._costs(written), self._given(written), threads=threads, optimize=name == RUNTIME)

    def _given(self, graph: Graph) -> dict[str, Array]:
        found = {**self._state, **self.inputs}
        return {name: found[name] for name in graph.input_names}

    def _costs(self, graph: Graph) -> Costs:
        types = [value.type for value in graph.values if isinstance(value.result_type, TensorType)]
        return Costs(phased(graph), {**dict.fromkeys(names_of(types), OTHER_SIZE), **self.fed.binding})


def phased(graph: Graph) -> Graph:
    """A step whose Values belong to ``loss``, ``backward`` or ``optimizer`` where they belong to no module."""
    forward = set(topological([graph.outputs[LOSS]]))
    moving = set()
    notes = dict(graph.notes)
    for value in graph.values:
        label = value.op.label if isinstance(value.op, Input | Parameter) else ""
        if label == RATE or label.startswith(OWN_STATE) or any(operand in moving for operand in value.operands):
            moving.add(value)
        known = notes.get(value, Note())
        if value.operands and not known.scope:
            phase = "loss" if value in forward else "optimizer" if value in moving else "backward"
            notes[value] = replace(known, scope=phase)
    return graph.with_outputs(graph.outputs, notes)


def _layer(model: Model, looked: Inspected) -> Layer:
    if isinstance(model, Graph):
        raise TypeError("a training step needs a layer, a model or a run, got a Graph")
    return looked.layer or ImportedLayer(looked.graph, dict(looked.state), dict(looked.metadata))


def _targets(kind: TensorType, loss: Loss, rng: np.random.Generator) -> Array:
    """Random targets for a prediction of this type: class numbers, zeros and ones, or numbers like it."""
    shape = tuple(size for size in kind.shape if isinstance(size, int))
    if loss == "cross_entropy":
        return rng.integers(0, shape[-1], shape[:-1])
    if loss == "binary_cross_entropy":
        return rng.integers(0, 2, shape).astype(kind.dtype)
    return rng.normal(size=shape).astype(kind.dtype)
