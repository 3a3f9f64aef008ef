"""Random arrays for a graph, and its outputs by the plain evaluator."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from lora_graph.interpret import evaluate
from lora_graph.ir import Graph, Input, TensorType, Value, topological
from lora_graph.ir.types import Array

Arrays = dict[str, Array]


def draw(rng: np.random.Generator, kind: TensorType) -> Array:
    shape = tuple(int(d) for d in kind.shape if isinstance(d, int))
    assert len(shape) == kind.rank, kind
    if kind.dtype.kind == "f":
        return np.asarray(rng.standard_normal(shape), kind.dtype)
    return np.asarray(rng.integers(0, 2 if kind.dtype.kind == "b" else 5, shape), kind.dtype)


def graph_of(outputs: Mapping[str, Value]) -> Graph:
    """The graph of ``outputs`` with its inputs in order of use."""
    leaves = [value for value in topological(outputs.values()) if isinstance(value.op, Input)]
    return Graph(tuple(leaves), outputs)


def arrays(graph: Graph, rng: np.random.Generator, sizes: Mapping[str, int]) -> tuple[Arrays, Arrays]:
    """Inputs and state for ``graph`` where its named dimensions have ``sizes``."""
    inputs = {leaf.op.label: draw(rng, leaf.type.bind(sizes)) for leaf in graph.inputs if isinstance(leaf.op, Input)}
    state = {name: draw(rng, leaf.type.bind(sizes)) for name, leaf in graph.parameters.items()}
    return inputs, state


def assert_same(after: Mapping[str, Any], before: Mapping[str, Any], tolerance: float) -> None:
    """‖after - before‖∞ ≤ tolerance · max(1, ‖before‖∞) for every output; NaN and infinities at the same places."""
    assert list(after) == list(before)
    for name, expected in before.items():
        actual = after[name]
        assert (actual.dtype, actual.shape) == (expected.dtype, expected.shape), name
        if expected.dtype.kind != "f":
            np.testing.assert_array_equal(actual, expected, name)
            continue
        finite = np.abs(expected[np.isfinite(expected)])
        scale = max(1.0, float(finite.max(initial=0)))
        np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * scale, err_msg=name)


def compare(before: Graph, after: Graph, rng: np.random.Generator, sizes: Mapping[str, int], tolerance: float) -> None:
    inputs, state = arrays(before, rng, sizes)
    kept = {name: state[name] for name in after.parameters}
    assert_same(evaluate(after, inputs, kept), evaluate(before, inputs, state), tolerance)
