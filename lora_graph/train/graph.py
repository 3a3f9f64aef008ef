"""The step graph: forward, loss, backward, clipping and optimizer as one graph.

Batch, draws and learning rate are its inputs, parameters and optimizer state its state; out come the loss, the norm of
the gradient, and everything that the step changes, under the name it has in the state. For accumulation the step is two
graphs: one that adds a micro-batch's gradient to the sum, and one that applies the sum.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import add

import numpy as np

from lora_graph.autodiff import gradients
from lora_graph.ir.dims import sizes
from lora_graph.ir.graph import Graph, Note
from lora_graph.ir.leaves import Input, Parameter
from lora_graph.ir.types import Array, TensorType, tensor
from lora_graph.ir.value import Value, apply
from lora_graph.layers.trace import Trace
from lora_graph.ops.arithmetic import maximum
from lora_graph.ops.select import clip, where
from lora_graph.rewrite.pipeline import optimize_graph
from lora_graph.train.optimizer import Optimizer

LOSS, NORM, RATE, SHARE, TARGET, WEIGHTS = "loss", "gradient_norm", "learning_rate", "share", "target", "loss_weights"
COUNT = "optimizer.count"
RESERVED = (LOSS, NORM, RATE, SHARE, TARGET, WEIGHTS)
RATE_INPUT: Value = apply(Input(RATE, tensor(np.float64)))
SHARE_INPUT: Value = apply(Input(SHARE, tensor(np.float64)))
"""How much of what the step averages over is in a micro-batch."""


@dataclass(frozen=True)
class Clipping:
    """Limits on gradients: the norm of all of them together, and the size of each element."""

    norm: float | None = None
    value: float | None = None


@dataclass(frozen=True)
class StepGraphs:
    """The graphs of one step, and the optimizer's state before the first (zeros of these types)."""

    step: Graph
    accumulate: Graph | None
    initial: Mapping[str, TensorType]
    trainable: tuple[str, ...]

    @property
    def fixed(self) -> set[str]:
        """The parameters that no step changes."""
        graphs = [graph for graph in (self.step, self.accumulate) if graph is not None]
        changed = {name for graph in graphs for name in graph.outputs} | set(self.initial)
        return {name for graph in graphs for name in graph.parameters} - changed

    def with_forward(self, graph: Graph) -> StepGraphs:
        """The same with another graph that runs the model."""
        return replace(self, step=graph) if self.accumulate is None else replace(self, accumulate=graph)

    def zeros(self) -> dict[str, Array]:
        """The optimizer's state before the first step."""
        return {name: np.zeros(sizes(kind.shape, {}), kind.dtype) for name, kind in self.initial.items()}


def step_graphs(
    traced: Trace,
    loss: Value,
    given: Sequence[Value],
    optimizer: Optimizer,
    clipping: Clipping,
    accumulated: bool,
) -> StepGraphs:
    """The graphs of a step that makes ``loss``, of outputs of ``traced`` and of the inputs ``given``, smaller."""
    parameters = Graph((), {LOSS: loss}).trainable
    if not parameters:
        raise ValueError(
            "nothing to train: the output depends on no parameter that trains "
            "(adapters that are merged, or not active, take no part)"
        )
    for kind, names in (
        ("a parameter", {*traced.graph.parameters, *traced.updates}),
        ("an input", traced.graph.input_names),
    ):
        taken = {*RESERVED} & {*names}
        if taken:
            raise ValueError(f"{kind} is called {min(taken)!r}, a name that the training step uses itself")
    inputs = [*traced.graph.inputs, *given]
    loss, updates, notes = _simplified(
        Graph(tuple(inputs), {LOSS: loss, **traced.updates}, traced.graph.notes, "forward")
    )
    found = dict(zip(parameters, gradients(loss, list(parameters.values())), strict=True))
    if not accumulated:
        results, initial = apply_gradients(parameters, found, traced.active, optimizer, clipping)
        graph = _graph([*inputs, RATE_INPUT], {LOSS: loss, **updates, **results}, "training step", notes)
        return StepGraphs(graph, None, initial, tuple(parameters))
    sums = {_sum(name): apply(Parameter(_sum(name), p.type, False)) for name, p in parameters.items()}
    added = {_sum(name): sums[_sum(name)] + g * SHARE_INPUT.astype(g.dtype) for name, g in found.items()}
    more = _graph([*inputs, SHARE_INPUT], {LOSS: loss, **updates, **added}, "accumulation step", notes)
    total = {name: sums[_sum(name)] for name in parameters}
    results, initial = apply_gradients(parameters, total, traced.active, optimizer, clipping)
    graph = _graph([*inputs, RATE_INPUT], results, "optimizer step")
    return StepGraphs(graph, more, {**initial, **{name: v.type for name, v in sums.items()}}, tuple(parameters))


def _simplified(forward: Graph) -> tuple[Value, dict[str, Value], Mapping[Value, Note]]:
    """The loss, the updates and the notes of the forward graph as it is when optimized.

    Its gradients then start from where, say, a scale costs least.
    """
    graph = optimize_graph(forward, "train").graph
    return graph.outputs[LOSS], {name: v for name, v in graph.outputs.items() if name != LOSS}, graph.notes


def apply_gradients(
    parameters: Mapping[str, Value],
    found: Mapping[str, Value],
    active: Mapping[str, Value],
    optimizer: Optimizer,
    clipping: Clipping,
) -> tuple[dict[str, Value], dict[str, TensorType]]:
    """What the step changes, by name, and the types of the optimizer's own state.

    Where only a part of a parameter is active, the rest keeps its value, its moments and its own count of steps.
    Counts are float64, so that 1 - βᵗ is exact enough in a float32 model.
    """
    results: dict[str, Value] = {NORM: global_norm(found.values())}
    found = clipped(found, clipping)
    initial: dict[str, TensorType] = {}
    for name, parameter in parameters.items():
        mask = active.get(name)
        label = COUNT if mask is None else f"{COUNT}/{name}"
        kind = tensor(np.float64) if mask is None else mask.type.with_dtype(np.float64)
        count: Value = apply(Parameter(label, kind, False))
        steps = count + (1.0 if mask is None else mask.astype(np.float64))
        slots = {s: apply(Parameter(f"optimizer.{s}/{name}", parameter.type, False)) for s in optimizer.slots}
        # what is inactive divides by 1 - βᵗ with t = 0, and is thrown away by the mask
        new, moved = optimizer.update(parameter, found[name], slots, RATE_INPUT.astype(parameter.dtype), steps)
        results[name] = _kept(mask, new, parameter)
        for slot, value in moved.items():
            results[f"optimizer.{slot}/{name}"] = _kept(mask, value, slots[slot])
            initial[f"optimizer.{slot}/{name}"] = parameter.type
        results[label], initial[label] = steps, count.type
    return results, initial


def global_norm(found: Iterable[Value]) -> Value:
    """√ Σ g² over all gradients."""
    return reduce(add, [(g * g).sum().astype(np.float64) for g in found]).sqrt()


def clipped(found: Mapping[str, Value], clipping: Clipping) -> dict[str, Value]:
    """The gradients held within ±``clipping.value``, then scaled by min(1, ``clipping.norm`` / ‖g‖)."""
    result = dict(found)
    if clipping.value is not None:
        result = {name: clip(g, -clipping.value, clipping.value) for name, g in result.items()}
    if clipping.norm is not None:
        # a norm within the limit, 0 included, divides the limit by itself
        factor = clipping.norm / maximum(global_norm(result.values()), clipping.norm)
        result = {name: g * factor.astype(g.dtype) for name, g in result.items()}
    return result


def _kept(mask: Value | None, new: Value, old: Value) -> Value:
    return new if mask is None else where(mask, new, old)


def is_sum(name: str) -> bool:
    """Whether the state of this name is a sum of gradients over micro-batches."""
    return name.startswith("gradient/")


def _sum(name: str) -> str:
    return f"gradient/{name}"


def _graph(
    inputs: Sequence[Value], outputs: Mapping[str, Value], name: str, notes: Mapping[Value, Note] | None = None
) -> Graph:
    """The graph with those of ``inputs`` that some output depends on."""
    used = set(Graph((), outputs).values)
    return Graph(tuple(leaf for leaf in inputs if leaf in used), outputs, notes or {}, name)
