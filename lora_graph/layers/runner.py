"""Running a layer: forward, and the backward that belongs to the last forward."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

import numpy as np

from lora_graph import checks
from lora_graph.autodiff import pull
from lora_graph.interpret import Program, compile_graph
from lora_graph.ir.graph import Graph
from lora_graph.ir.leaves import Input
from lora_graph.ir.types import Array
from lora_graph.ir.value import apply
from lora_graph.layers.interface import alone, by_name, feed, label_of
from lora_graph.layers.trace import trace
from lora_graph.ops.pull import summed
from lora_graph.rewrite.pipeline import optimize_graph

if TYPE_CHECKING:
    from lora_graph.layers.layer import Layer

PROGRAMS_KEPT = 16
"""How many graphs a layer keeps programs for; the one that ran longest ago goes first."""

SEED, FOUND = "gradient of output ", "gradient of input "
"""Prefixes of names in a backward graph, which no draw and no parameter has."""

_programs: WeakValueDictionary[Graph, Program] = WeakValueDictionary()
"""The programs that some layer keeps, shared by all graphs of one structure."""


@lru_cache(maxsize=64)
def backward_graph(graph: Graph, inputs: tuple[str, ...], outputs: tuple[str, ...]) -> Graph:
    """From the inputs of ``graph`` and the gradients of ``outputs``: those of ``inputs`` and of what trains."""
    seeds = {name: apply(Input(SEED + name, graph.outputs[name].type)) for name in outputs}
    leaves = dict(zip(graph.input_names, graph.inputs, strict=True))
    wanted = {**{FOUND + name: leaves[name] for name in inputs}, **graph.trainable}
    cotangents = summed((graph.outputs[name], seed) for name, seed in seeds.items())
    found = pull(cotangents, list(wanted.values()))
    results = {name: found[leaf] for name, leaf in wanted.items() if leaf in found}
    return Graph((*graph.inputs, *seeds.values()), results, name=f"{graph.name} backward")


@dataclass(frozen=True)
class Last:
    """The last forward: its graph, what it was given, the shapes it gave, and which parameters it was to train."""

    graph: Graph
    inputs: Mapping[str, Array]
    state: Mapping[str, Array]
    output_shapes: Mapping[str, tuple[int, ...]]
    trainable: tuple[str, ...]


class Runner:
    """The programs of a layer, its last forward, and the gradients of its last backward.

    The layer is traced on every forward, because what ``build`` depends on may have changed in ways that nothing
    else would notice; a graph that was met before finds its program again.
    """

    def __init__(self, layer: Layer):
        self._layer = layer
        self._kept: OrderedDict[Graph, Program] = OrderedDict()
        self.reset()

    def __reduce__(self) -> tuple[type[Runner], tuple[Layer]]:
        """A layer that was copied or pickled starts without a last forward."""
        return Runner, (self._layer,)

    def reset(self) -> None:
        self._last: Last | None = None
        self._gradients: dict[str, Array] | None = None

    def close(self) -> None:
        self._kept.clear()

    def _program(self, graph: Graph) -> Program:
        program = self._kept.get(graph) or _programs.get(graph)
        if program is None:
            program = _programs[graph] = compile_graph(optimize_graph(graph, "train").graph)
        self._kept[graph] = program
        self._kept.move_to_end(graph)
        if len(self._kept) > PROGRAMS_KEPT:
            self._kept.popitem(last=False)
        return program

    def forward(self, x: Any) -> Any:
        layer = self._layer
        given = feed(layer, x)
        places = layer.places()
        traced = trace(layer, given.types, places=places, annotate=False)
        slots = layer.slots(places)
        drawn = {draw.label: draw.sample(draw.layer.rng, given.binding) for draw in traced.draws}
        state = {label: slot.array for label, (slot, _) in slots.items()}
        graph = traced.graph.with_outputs({**traced.graph.outputs, **traced.updates})
        results = self._program(graph).run({**given.arrays, **drawn}, state)
        for label in traced.updates:
            slots[label][0].array = results[label]
        y = {name: results[name] for name in traced.graph.outputs}
        inputs = {**{name: array.copy() for name, array in given.arrays.items()}, **drawn}
        shapes = {name: array.shape for name, array in y.items()}
        trainable = tuple(label for label, (_, trains) in slots.items() if trains)
        self._last = Last(traced.graph, inputs, state, shapes, trainable)
        return alone(y)

    def backward(self, output_gradient: Any) -> Any:
        layer, last = self._layer, self._last
        if last is None:
            raise RuntimeError(f"{layer.layer_name}: backward needs a forward first (and none since reset_state)")
        if not layer.supports_training:
            raise RuntimeError(f"{layer.layer_name} does not support training: it has no backward")
        seeds = _seeds(last, output_gradient)
        types = {name: last.graph.inputs[i].type for i, name in enumerate(layer.input_shapes)}
        floats = tuple(name for name, kind in types.items() if kind.is_float)
        graph = backward_graph(last.graph, floats, tuple(seeds))
        given = {**last.inputs, **{SEED + name: seed for name, seed in seeds.items()}}
        results = self._program(graph).run(given, last.state) if graph.outputs else {}
        # what the outputs do not depend on is not in the graph
        self._gradients = {n: results[n] if n in results else np.zeros_like(last.state[n]) for n in last.trainable}
        wanted = floats if len(types) > 1 else tuple(types)
        found = {n: results[FOUND + n] if FOUND + n in results else np.zeros_like(last.inputs[n]) for n in wanted}
        return found if len(types) > 1 else found[wanted[0]]

    def gradients(self) -> dict[str, Array]:
        if self._gradients is None:
            raise RuntimeError(f"{self._layer.layer_name} has no gradients: call forward and backward first")
        return self._gradients

    def clear_gradients(self) -> None:
        self._gradients = None


def _seeds(last: Last, given: Any) -> dict[str, Array]:
    """The gradients of the outputs, by name; where there are several outputs some may be left out."""
    outputs = last.graph.outputs
    names = [name for name in outputs if not isinstance(given, Mapping) or len(outputs) == 1 or name in given]
    seeds = {}
    for name, gradient in by_name(names, given, "output gradient").items():
        label, kind = label_of("output_gradient", name, len(outputs)), outputs[name].type
        if not kind.is_float:
            raise TypeError(f"{label}: only floats have a gradient, the output is {kind}")
        seeds[name] = checks.numeric(label, gradient, kind.dtype)
        if seeds[name].shape != last.output_shapes[name]:
            shape = last.output_shapes[name]
            raise ValueError(f"{label} must have the shape of the output {shape}, got {seeds[name].shape}")
    return seeds
