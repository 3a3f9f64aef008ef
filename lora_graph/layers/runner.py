"""Running a layer: forward, and the backward that belongs to the last forward."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from lora_graph import checks
from lora_graph.autodiff import gradients
from lora_graph.interpret import Program, compile_graph
from lora_graph.ir.dims import plain_name
from lora_graph.ir.graph import Graph
from lora_graph.ir.leaves import Input, Parameter
from lora_graph.ir.types import Array, show
from lora_graph.ir.value import apply
from lora_graph.layers.trace import Trace, lead_names, trace
from lora_graph.rewrite.pipeline import optimize_graph

if TYPE_CHECKING:
    from lora_graph.layers.layer import Layer


@lru_cache(maxsize=64)
def program_for(graph: Graph) -> Program:
    """The plan for a graph that keeps all its parameters; one for every graph of the same structure."""
    return compile_graph(optimize_graph(graph, "train").graph)


@lru_cache(maxsize=64)
def backward_graph(graph: Graph) -> Graph:
    """From the inputs of ``graph`` and ``gradient``: the gradients of x and of every trainable parameter."""
    output = graph.outputs["y"]
    seed = apply(Input("gradient", output.type))
    trainable = {n: v for n, v in graph.parameters.items() if isinstance(v.op, Parameter) and v.op.trainable}
    x = graph.inputs[0]
    wanted = {"x": x, **trainable} if x.type.is_float else trainable
    found = gradients(output, list(wanted.values()), seed)
    return Graph((*graph.inputs, seed), dict(zip(wanted, found, strict=True)), name=f"{graph.name} backward")


class Runner:
    """The last forward of a layer (input, draws, parameters) and the gradients of the last backward."""

    def __init__(self, layer: Layer):
        self._layer = layer
        self.reset()

    def __deepcopy__(self, memo: dict[int, object]) -> Runner:
        """A copied layer starts without a last forward."""
        return Runner(copy.deepcopy(self._layer, memo))

    def reset(self) -> None:
        self._last: tuple[Trace, dict[str, Array], Mapping[str, Array]] | None = None
        self._gradients: dict[str, Array] | None = None

    def forward(self, x: npt.ArrayLike) -> Array:
        layer = self._layer
        array = checks.numeric("x", x, layer.input_dtype)
        sample = layer.input_shape
        lead = array.ndim - len(sample)
        if lead < 0:
            raise ValueError(f"x must end in {show(sample)}, got shape {array.shape}")
        traced = trace(layer, (*lead_names(lead), *sample))
        binding: dict[str, int] = {}
        for dimension, size in zip(traced.graph.inputs[0].shape, array.shape, strict=True):
            name = plain_name(dimension)
            if name is not None:
                binding.setdefault(name, size)
            elif isinstance(dimension, int) and dimension != size:
                raise ValueError(f"x must end in {show(sample)}, got shape {array.shape}")
        inputs = {"x": array, **{draw.label: draw.sample(draw.layer.rng, binding) for draw in traced.draws}}
        state = layer.state
        graph = traced.graph.with_outputs({**traced.graph.outputs, **traced.updates})
        results = program_for(graph).run(inputs, state)
        if traced.updates:
            layer.assign({label: results[label] for label in traced.updates})
        self._last = (traced, {**inputs, "x": array.copy()}, state)
        return results["y"]

    def backward(self, output_gradient: npt.ArrayLike) -> Array:
        if self._last is None:
            raise RuntimeError(f"{self._layer.layer_name}: backward needs a forward first (and none since reset_state)")
        traced, inputs, state = self._last
        seed = checks.numeric("output_gradient", output_gradient, self._layer.dtype)
        program = program_for(backward_graph(traced.graph))
        results = program.run({**inputs, "gradient": seed}, state)
        of_input = results.pop("x", np.zeros_like(inputs["x"]))
        self._gradients = results
        return of_input

    def gradients(self) -> dict[str, Array]:
        if self._gradients is None:
            raise RuntimeError(f"{self._layer.layer_name} has no gradients: call forward and backward first")
        return self._gradients

    def take_gradients(self) -> dict[str, Array]:
        taken = self.gradients()
        self._gradients = None
        return taken

    def clear_gradients(self) -> None:
        self._gradients = None
