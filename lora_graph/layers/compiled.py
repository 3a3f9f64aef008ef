"""``lg.optimize`` and ``lg.compile``: a layer or graph made ready to run in NumPy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np

from lora_graph import checks
from lora_graph.interpret import Program, compile_graph
from lora_graph.ir.graph import Graph
from lora_graph.ir.types import Array
from lora_graph.layers.interface import Axes, alone, by_name, input_types
from lora_graph.layers.layer import Layer
from lora_graph.layers.trace import trace
from lora_graph.rewrite.pipeline import PRESETS, Optimized, optimize_graph
from lora_graph.rewrite.record import Report

Ranks = tuple[int, ...] | None
"""How many axes each input has."""

_optimized = lru_cache(maxsize=128)(optimize_graph)


def optimize(
    graph_or_layer: Graph | Layer,
    preset: str = "inference",
    *,
    state: Mapping[str, Array] | None = None,
    input_shape: Axes | Mapping[str, Axes] | None = None,
) -> tuple[Graph, dict[str, Array], Report]:
    """The graph after the passes of ``preset``, the state that belongs to it, and the report of what was done.

    For a layer the state is its own; for a graph it is what ``state`` gives. ``"train"`` keeps every parameter,
    ``"inference"`` scales weights ahead of time, ``"deploy"`` merges adapters into their base and fuses for ONNX.
    Graphs of one structure are optimized once; ``report.cache_hits`` tells how often that was of use.
    """
    checks.choice("preset", preset, list(PRESETS))
    graph, given = _graph_and_state(graph_or_layer, state, input_shape)
    optimized = _optimized(graph, preset)
    report = replace(optimized.report, cache_hits=_optimized.cache_info().hits)
    return optimized.graph, optimized.state(given), report


def compile(  # noqa: A001
    layer_or_graph: Layer | Graph, preset: str = "inference", *, state: Mapping[str, Array] | None = None
) -> Compiled:
    """A function that computes a layer's evaluation output, or a graph's, in NumPy.

    The weights are those of the moment; plans are made once per input shape and shared by all graphs of one structure.
    """
    if not isinstance(layer_or_graph, Layer | Graph):
        raise TypeError(f"compile takes a Layer or a Graph, got {layer_or_graph!r}")
    checks.choice("preset", preset, list(PRESETS))
    return Compiled(layer_or_graph, preset, state or {})


class Compiled:
    """What ``lg.compile`` gives: call it with one array, or with a dict of arrays by input name."""

    def __init__(self, source: Layer | Graph, preset: str, state: Mapping[str, Array]):
        self.source = source
        self.preset = preset
        given = source.state if isinstance(source, Layer) else state
        self._names = list(source.input_shapes) if isinstance(source, Layer) else source.input_names
        self._state = {name: array.copy() for name, array in given.items()}
        self._ready: dict[Ranks, tuple[Program, dict[str, Array]]] = {}
        self.report = self._optimize(None).report

    def _optimize(self, ranks: Ranks) -> Optimized:
        """The graph for inputs of so many axes; None stands for a batch of samples, or for a graph as it is."""
        if isinstance(self.source, Graph):
            return _optimized(self.source, self.preset)
        types = None if ranks is None else input_types(self.source, dict(zip(self._names, ranks, strict=True)))
        return _optimized(trace(self.source, types, training=False).graph, self.preset)

    def __repr__(self) -> str:
        return f"<Compiled: {self.source!r}, preset {self.preset!r}>"

    def __call__(self, x: Any) -> Any:
        """The output, or a dict of outputs by name where there are several."""
        given = by_name(self._names, x, "input")
        ranks = None if isinstance(self.source, Graph) else tuple(map(np.ndim, given.values()))
        if ranks not in self._ready:
            optimized = self._optimize(ranks)
            self._ready[ranks] = _program(optimized.graph), optimized.state(self._state)
        program, state = self._ready[ranks]
        return alone(program.run(given, state))


_program = lru_cache(maxsize=64)(compile_graph)


def _graph_and_state(
    source: Graph | Layer, state: Mapping[str, Array] | None, input_shape: Axes | Mapping[str, Axes] | None
) -> tuple[Graph, Mapping[str, Array]]:
    if isinstance(source, Layer):
        return source.to_graph(input_shape), source.state
    if not isinstance(source, Graph):
        raise TypeError(f"expected a Graph or a Layer, got {source!r}")
    missing = sorted(set(source.parameters) - set(state or {}))
    if missing:
        raise ValueError(f"state must hold the graph's parameters; {missing[0]!r} is missing")
    return source, state or {}
