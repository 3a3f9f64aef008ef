"""A training step made ready for one kind of batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lora_graph import checks
from lora_graph.ir.dims import Dim
from lora_graph.ir.graph import Graph
from lora_graph.ir.leaves import Input
from lora_graph.ir.types import Array, TensorType, show
from lora_graph.ir.value import Value, apply
from lora_graph.layers.interface import Feed
from lora_graph.layers.trace import Trace, trace
from lora_graph.ops.loss import check_range
from lora_graph.train.data import Batch
from lora_graph.train.diverged import first_not_finite
from lora_graph.train.draws import Rng, draw_all
from lora_graph.train.engine import Engine, Runner
from lora_graph.train.graph import TARGET, WEIGHTS, StepGraphs, step_graphs
from lora_graph.train.hold import split
from lora_graph.train.loss import IGNORED, loss_of

if TYPE_CHECKING:
    from lora_graph.train.step import TrainingStep


@dataclass
class Prepared:
    """The compiled graphs of a step, and what has to be fed to them."""

    traced: Trace
    graphs: StepGraphs
    engine: Engine
    step: Runner
    accumulate: Runner | None
    once: Runner | None
    """What gives the held values of a batch, where there are any."""
    target: TensorType
    weights: TensorType | None
    classes: Dim | None
    """How many there are, where targets are class numbers, of which some may be left out."""
    steady: frozenset[str]
    """The draws that micro-batches of one step have in common."""

    @classmethod
    def build(
        cls, owner: TrainingStep, types: Mapping[str, TensorType], batch: Batch, sizes: Mapping[str, int]
    ) -> Prepared:
        """The step of ``owner`` for batches like this one, its inputs being of these types and sizes."""
        traced = trace(owner.model, types)
        result = traced.graph.outputs[owner.output]
        kind = _target_type(batch.targets, result)
        weights = None if batch.weights is None else _like(batch.weights, result)
        graphs = graphs_for(owner, traced, kind, weights)
        fixed = {name: owner.base[name] for name in graphs.fixed}
        parts = None
        if owner.cache_frozen:
            data = traced.graph.inputs[: len(types)]
            parts = split(graphs.accumulate or graphs.step, data, fixed, len(batch.targets))
        running = graphs.with_forward(parts.rest) if parts else graphs
        asked = {"step": running.step, "accumulate": running.accumulate, "once": parts.once if parts else None}
        wanted = {name: graph for name, graph in asked.items() if graph is not None}
        engine, made = owner.compile(list(wanted.values()), fixed, sizes)
        runners = dict(zip(wanted, made, strict=True))
        step, more, once = runners["step"], runners.get("accumulate"), runners.get("once")
        classes = result.shape[-1] if owner.loss == "cross_entropy" and kind.dtype == np.int64 else None
        return cls(traced, graphs, engine, step, more, once, kind, weights, classes, _steady(traced))

    def inputs(self, given: Feed, batch: Batch, rng: Rng, kept: dict[str, Array]) -> dict[str, Array]:
        """All inputs of a step but the learning rate: data as it has to be, and what is drawn for it.

        ``kept`` holds what was drawn for the step already.
        """
        drawn = draw_all(self.traced.draws, given.binding, rng, self.steady, kept)
        held = self.held(given) if batch.held is None else batch.held
        found = {**given.arrays, **held, TARGET: _checked("targets", _labels(batch.targets), self.target), **drawn}
        if self.weights is not None:
            assert batch.weights is not None
            found[WEIGHTS] = _checked("weights", batch.weights, self.weights)
            bad = found[WEIGHTS][~(np.isfinite(found[WEIGHTS]) & (found[WEIGHTS] >= 0))]
            if bad.size:
                raise ValueError(f"weights must be finite and at least 0, got {bad[0]}")
        if isinstance(self.classes, int):
            check_range("cross_entropy", found[TARGET][_counted(found) != 0], self.classes)
        return found

    def held(self, given: Feed) -> dict[str, Array]:
        """What the frozen part of the model gives for a batch, samples first."""
        if self.once is None:
            return {}
        found = self.once.run({name: given.arrays[name] for name in self.once.graph.input_names}, {}, out={})
        return {name: self.engine.read(buffer) for name, buffer in found.items()}

    def origin(self, inputs: Mapping[str, Array], state: Mapping[str, Array]) -> str:
        """Where a step on these inputs, or its part on one micro-batch, stops being finite; "" where it does not."""
        graph = self.graphs.accumulate or self.graphs.step
        given = {name: inputs[name] for name in graph.input_names}
        return first_not_finite(graph, given, {name: state[name] for name in graph.parameters})

    def mass(self, given: Feed, inputs: Mapping[str, Array]) -> float:
        """How much a batch counts beside others of its step: the sum of what its loss is a mean over."""
        if self.classes is not None:
            return float(_counted(inputs).sum())
        return float(inputs[WEIGHTS].sum() if WEIGHTS in inputs else given.samples)


def graphs_for(owner: TrainingStep, traced: Trace, target: TensorType, weights: TensorType | None) -> StepGraphs:
    """The graphs of a step of ``owner`` for targets, and weights where there are any, of these types."""
    given = [apply(Input(TARGET, target))]
    if weights is not None:
        given.append(apply(Input(WEIGHTS, weights)))
    loss = loss_of(owner.loss, traced.graph.outputs[owner.output], *given)
    return step_graphs(traced, loss, given, owner.optimizer, owner.clipping, owner.accumulated)


def _counted(inputs: Mapping[str, Array]) -> Array:
    """How much each label counts."""
    kept: Array = inputs[TARGET] != IGNORED
    if WEIGHTS not in inputs:
        return kept
    weights = inputs[WEIGHTS]
    return kept * weights.reshape(weights.shape + (1,) * (kept.ndim - weights.ndim))


def _labels(target: Array) -> Array:
    return target.astype(np.int64) if target.dtype.kind == "b" else target


def _checked(name: str, array: Array, kind: TensorType) -> Array:
    wanted = checks.numeric(name, array, kind.dtype)
    if any(isinstance(d, int) and d != n for d, n in zip(kind.shape, wanted.shape, strict=True)):
        raise ValueError(f"{name} must have the shape {show(kind.shape)}, got {wanted.shape}")
    return wanted


def _target_type(target: Array, prediction: Value) -> TensorType:
    """The type of targets: class numbers are int64, anything else has the dtype of the prediction."""
    kind = _like(target, prediction)
    return kind.with_dtype(np.int64) if target.dtype.kind in "iub" else kind


def _like(array: Array, prediction: Value) -> TensorType:
    """The type of arrays like this one: the dtype of the prediction, and axes named as it names them."""
    size = prediction.shape[: array.ndim] + array.shape[prediction.rank :]
    shape = tuple(d if not isinstance(d, int) else n for d, n in zip(size, array.shape, strict=True))
    return TensorType(prediction.dtype, shape)


def _steady(traced: Trace) -> frozenset[str]:
    """Draws that share a name, and those that decide which parts of a parameter take part in a step."""
    deciding = {value.op.label for value in Graph((), traced.active).values if isinstance(value.op, Input)}
    return frozenset(draw.label for draw in traced.draws if draw.shared is not None or draw.label in deciding)
