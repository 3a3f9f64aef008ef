"""The step graph: forward, loss, backward, clipping and optimizer as one graph.

Batch, draws and learning rate are its inputs, parameters and optimizer state its state; out come the loss, the norm of
the gradient, and everything that the step changes, under the name it has in the state. For accumulation the step is two
graphs: one that adds a micro-batch's gradient to the sum, and one that applies the sum.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add

import numpy as np

from lora_graph.autodiff import gradients
from lora_graph.ir.graph import Graph
from lora_graph.ir.leaves import Input, Parameter
from lora_graph.ir.types import Array, TensorType, tensor
from lora_graph.ir.value import Value, apply
from lora_graph.layers.trace import Trace
from lora_graph.ops.elementwise import clip, minimum, where
from lora_graph.train.loss import Loss, loss_of
from lora_graph.train.optimizer import Optimizer

LOSS, NORM, RATE, SHARE = "loss", "gradient_norm", "learning_rate", "share"
COUNT = "optimizer.count"


@dataclass(frozen=True)
class Clipping:
    """Limits on gradients: the norm of all of them together, or the size of each element."""

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

    def zeros(self) -> dict[str, Array]:
        return {name: np.zeros(kind.bind({}).shape, kind.dtype) for name, kind in self.initial.items()}


def step_graphs(
    traced: Trace, target: Value, loss: Loss, optimizer: Optimizer, clipping: Clipping, accumulated: bool
) -> StepGraphs:
    """The graphs that train what ``traced`` computes to meet ``target``."""
    value = loss_of(loss, traced.graph.outputs["y"], target)
    parameters = {n: v for n, v in traced.graph.parameters.items() if isinstance(v.op, Parameter) and v.op.trainable}
    if not parameters:
        raise ValueError("nothing to train: every parameter is frozen")
    found = dict(zip(parameters, gradients(value, list(parameters.values())), strict=True))
    inputs = [*traced.graph.inputs, target]
    if not accumulated:
        results, initial = apply_gradients(parameters, found, traced.active, optimizer, clipping, value.dtype)
        graph = _graph([*inputs, _rate(value.dtype)], {LOSS: value, **traced.updates, **results}, "training step")
        return StepGraphs(graph, None, initial, tuple(parameters))
    share: Value = apply(Input(SHARE, tensor(value.dtype)))
    sums = {_sum(name): apply(Parameter(_sum(name), p.type, False)) for name, p in parameters.items()}
    added = {_sum(name): sums[_sum(name)] + g * share for name, g in found.items()}
    more = _graph([*inputs, share], {LOSS: value, **traced.updates, **added}, "accumulation step")
    total = {name: sums[_sum(name)] for name in parameters}
    results, initial = apply_gradients(parameters, total, traced.active, optimizer, clipping, value.dtype)
    graph = _graph([*inputs, _rate(value.dtype)], results, "optimizer step")
    return StepGraphs(graph, more, {**initial, **{name: v.type for name, v in sums.items()}}, tuple(parameters))


def apply_gradients(
    parameters: Mapping[str, Value],
    found: Mapping[str, Value],
    active: Mapping[str, Value],
    optimizer: Optimizer,
    clipping: Clipping,
    dtype: np.dtype[np.floating],
) -> tuple[dict[str, Value], dict[str, TensorType]]:
    """What the step changes, by name, and the types of the optimizer's own state.

    Where only a part of a parameter is active, the rest keeps its value, its moments and its own count of steps.
    """
    norm = global_norm(list(found.values()))
    found = clipped(found, norm, clipping)
    count: Value = apply(Parameter(COUNT, tensor(dtype), False))
    results: dict[str, Value] = {NORM: norm}
    initial: dict[str, TensorType] = {}
    for name, parameter in parameters.items():
        mask = active.get(name)
        own = count if mask is None else apply(Parameter(f"{COUNT}/{name}", mask.type.with_dtype(dtype), False))
        steps = own + 1.0 if mask is None else own + mask.astype(dtype)
        slots = {s: apply(Parameter(f"optimizer.{s}/{name}", parameter.type, False)) for s in optimizer.slots}
        # what is inactive divides by 1 - βᵗ with t = 0, and is thrown away by the mask
        new, moved = optimizer.update(parameter, found[name], slots, _rate(dtype), steps)
        results[name] = _kept(mask, new, parameter)
        for slot, value in moved.items():
            results[f"optimizer.{slot}/{name}"] = _kept(mask, value, slots[slot])
            initial[f"optimizer.{slot}/{name}"] = parameter.type
        results[own.op.label] = steps  # type: ignore[attr-defined]
        initial[own.op.label] = own.type  # type: ignore[attr-defined]
    return results, initial


def global_norm(found: Sequence[Value]) -> Value:
    """√ Σ g² over all gradients."""
    return reduce(add, [(g * g).sum() for g in found]).sqrt()


def clipped(found: Mapping[str, Value], norm: Value, clipping: Clipping) -> dict[str, Value]:
    """The gradients scaled to a norm of at most ``clipping.norm``, or held within ±``clipping.value``."""
    result = dict(found)
    if clipping.value is not None:
        result = {name: clip(g, -clipping.value, clipping.value) for name, g in result.items()}
    if clipping.norm is not None:
        factor = minimum(clipping.norm / (norm + 1e-6), 1.0)
        result = {name: g * factor for name, g in result.items()}
    return result


def _kept(mask: Value | None, new: Value, old: Value) -> Value:
    return new if mask is None else where(mask, new, old)


def _rate(dtype: np.dtype[np.floating]) -> Value:
    rate: Value = apply(Input(RATE, tensor(dtype)))
    return rate


def is_sum(name: str) -> bool:
    """Whether the state of this name is a sum of gradients over micro-batches."""
    return name.startswith("gradient/")


def _sum(name: str) -> str:
    return f"gradient/{name}"


def _graph(inputs: Sequence[Value], outputs: Mapping[str, Value], name: str) -> Graph:
    """The graph with those of ``inputs`` that some output depends on."""
    used = set(Graph((), outputs).values)
    return Graph(tuple(leaf for leaf in inputs if leaf in used), outputs, name=name)
