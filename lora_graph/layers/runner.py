"""Running a layer: forward, and the backward that belongs to the last forward."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

import numpy as np
import numpy.typing as npt

from lora_graph import checks
from lora_graph.autodiff import gradients
from lora_graph.interpret import Program, compile_graph
from lora_graph.ir.graph import Graph
from lora_graph.ir.leaves import Input
from lora_graph.ir.types import Array
from lora_graph.ir.value import apply
from lora_graph.layers.trace import batched, bind_input, trace
from lora_graph.rewrite.pipeline import optimize_graph

if TYPE_CHECKING:
    from lora_graph.layers.layer import Layer

PROGRAMS_KEPT = 16
"""How many graphs a layer keeps programs for; the one that ran longest ago goes first."""

SEED = "output gradient"
"""The input of a backward graph, a name that no draw has."""

_programs: WeakValueDictionary[Graph, Program] = WeakValueDictionary()
"""The programs that some layer keeps, shared by all graphs of one structure."""


@lru_cache(maxsize=64)
def backward_graph(graph: Graph) -> Graph:
    """From the inputs of ``graph`` and the output's gradient: the gradients of x and of every trainable parameter."""
    output = graph.outputs["y"]
    seed = apply(Input(SEED, output.type))
    x = graph.inputs[0]
    wanted = {"x": x, **graph.trainable} if x.type.is_float else graph.trainable
    found = gradients(output, list(wanted.values()), seed)
    return Graph((*graph.inputs, seed), dict(zip(wanted, found, strict=True)), name=f"{graph.name} backward")


@dataclass(frozen=True)
class Last:
    """The last forward: its graph, what it was given, the shape it gave, and which parameters it was to train."""

    graph: Graph
    inputs: Mapping[str, Array]
    state: Mapping[str, Array]
    output_shape: tuple[int, ...]
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

    def forward(self, x: npt.ArrayLike) -> Array:
        layer = self._layer
        array = checks.numeric("x", x, layer.input_dtype)
        binding = bind_input("x", layer.input_shape, array.shape)
        places = layer.places()
        traced = trace(layer, batched(layer.input_shape, array.ndim), places=places, annotate=False)
        slots = layer.slots(places)
        inputs = {"x": array, **{draw.label: draw.sample(draw.layer.rng, binding) for draw in traced.draws}}
        state = {label: slot.array for label, (slot, _) in slots.items()}
        graph = traced.graph.with_outputs({**traced.graph.outputs, **traced.updates})
        results = self._program(graph).run(inputs, state)
        for label in traced.updates:
            slots[label][0].array = results[label]
        trainable = tuple(label for label, (_, trains) in slots.items() if trains)
        self._last = Last(traced.graph, {**inputs, "x": array.copy()}, state, results["y"].shape, trainable)
        return results["y"]

    def backward(self, output_gradient: npt.ArrayLike) -> Array:
        layer, last = self._layer, self._last
        if last is None:
            raise RuntimeError(f"{layer.layer_name}: backward needs a forward first (and none since reset_state)")
        if not layer.supports_training:
            raise RuntimeError(f"{layer.layer_name} does not support training: it has no backward")
        seed = checks.numeric("output_gradient", output_gradient, layer.dtype)
        if seed.shape != last.output_shape:
            raise ValueError(f"output_gradient must have the shape of the output {last.output_shape}, got {seed.shape}")
        program = self._program(backward_graph(last.graph))
        results = program.run({**last.inputs, SEED: seed}, last.state)
        of_input = results.pop("x", None)
        # a parameter that the output does not depend on is not in the graph
        self._gradients = {n: results[n] if n in results else np.zeros_like(last.state[n]) for n in last.trainable}
        return np.zeros_like(last.inputs["x"]) if of_input is None else of_input

    def gradients(self) -> dict[str, Array]:
        if self._gradients is None:
            raise RuntimeError(f"{self._layer.layer_name} has no gradients: call forward and backward first")
        return self._gradients

    def clear_gradients(self) -> None:
        self._gradients = None
