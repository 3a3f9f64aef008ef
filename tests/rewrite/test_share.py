"""Activations are spelled out exactly where their gradient computes the costly part of them again."""

from __future__ import annotations

import numpy as np
import pytest

from lora_graph import ops
from lora_graph.autodiff import gradients
from lora_graph.ir import Graph, Value
from lora_graph.rewrite.share import COSTLY, share_activations
from tests.rewrite.running import compare

X, C = (ops.input(name, "float64", ("batch", 4)) for name in "xc")


def costly(graph: Graph) -> list[str]:
    fused = ("Gelu", "Swish", "Softplus")
    return sorted(v.op.name for v in graph.values if isinstance(v.op, COSTLY) or v.op.name in fused)


@pytest.mark.parametrize(
    ("activation", "before", "after"),
    [
        (ops.gelu, ["Erf", "Exp", "Gelu"], ["Erf", "Exp"]),
        (ops.gelu_tanh, ["Gelu", "Sigmoid"], ["Sigmoid"]),
        (ops.silu, ["Sigmoid", "Swish"], ["Sigmoid"]),
        (ops.softplus, ["Sigmoid", "Softplus"], ["Sigmoid", "Softplus"]),
    ],
    ids=lambda item: getattr(item, "__name__", None),
)
def test_a_gradient_shares_what_is_costly(
    activation: object, before: list[str], after: list[str], rng: np.random.Generator
) -> None:
    y = activation(X)  # type: ignore[operator]
    graph = Graph((X, C), {"y": y, "dx": gradients(y, [X], C)[0]})
    shared, _, record = share_activations(graph)
    assert costly(graph) == before
    assert costly(shared) == after
    assert record.fired == ({"spell activation": 1} if before != after else {})
    compare(graph, shared, rng, {"batch": 3}, 1e-14)


def test_an_activation_without_a_gradient_stays(rng: np.random.Generator) -> None:
    other: Value = ops.erf(X * 3.0)
    graph = Graph((X,), {"y": ops.gelu(X), "z": other})
    assert share_activations(graph)[0] is graph
