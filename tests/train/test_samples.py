"""Which values belong to single samples: a batch is computed, and each of its samples alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import lora_graph as lg
from lora_graph.interpret import evaluate
from lora_graph.ir import Graph, apply, constant, dims, input, parameter  # noqa: A004
from lora_graph.ir.leaves import absent, project, size_of
from lora_graph.ops.convolution import Conv, ConvTranspose
from lora_graph.ops.cumulative import CumSum
from lora_graph.ops.gather import Gather, GatherElements, GatherND
from lora_graph.ops.linalg import Gemm, Trilu
from lora_graph.ops.pooling import AveragePool, GlobalAveragePool, MaxPool, MaxPoolIndices
from lora_graph.ops.recurrent import LSTM
from lora_graph.ops.reduce import ArgMax
from lora_graph.ops.shape import Expand, Flatten
from lora_graph.train.samples import Samples

B = dims.dim("batch")
x = input("x", np.float64, ("batch", 4, 6))
z = input("z", np.float64, ("batch", 4, 6))
flat = input("flat", np.float64, ("batch", 6))
image = input("image", np.float64, ("batch", 2, 6, 6))
ids = input("ids", np.int64, ("batch", 4))
w, table, row = (parameter(n, np.float64, s, False) for n, s in {"w": (6, 6), "table": (4, 6), "row": (6,)}.items())
kernel = parameter("kernel", np.float64, (2, 2, 3, 3), False)
moving = parameter("moving", np.float64, (6, 6))
LEAVES = (x, z, flat, image, ids)


def arange(size: Any) -> lg.Value:
    """0, 1, 2 … as models spell it."""
    return apply(CumSum(0, 1), apply(Expand((size,)), constant(1, np.int64)))


def own_rows() -> lg.Value:
    """The number of the sample beside that of each position, as an index into [batch, 4, …]."""
    numbers = apply(Expand((B, 4)), lg.ops.unsqueeze(arange(B), 1))
    positions = apply(Expand((B, 4)), arange(4))
    return lg.ops.concat([lg.ops.unsqueeze(numbers, 2), lg.ops.unsqueeze(positions, 2)], -1)


def recurrent() -> lg.Value:
    sizes = {"W": (1, 12, 6), "R": (1, 12, 3)}
    weights = [parameter(name, np.float64, shape, False) for name, shape in sizes.items()]
    start = apply(Expand((1, B, 3)), constant(0.0))
    found = apply(LSTM(3), x.transpose((1, 0, 2)), *weights, absent(), absent(), start, start)
    return project(found, 0)


APART: dict[str, tuple[Callable[[], lg.Value], int]] = {
    "element by element": (lambda: (x * 2 + z).tanh() - row, 0),
    "transposed operands": (lambda: x.transpose((1, 0, 2)) * z.transpose((1, 0, 2)), 1),
    "a product with a weight": (lambda: x @ w, 0),
    "a weight times": (lambda: table @ x.swapaxes(1, 2), 0),
    "a product of two": (lambda: lg.ops.softmax(x @ z.swapaxes(1, 2)) @ z, 0),
    "rows transposed": (lambda: w @ flat.T, 1),
    "a vector": (lambda: x @ row, 0),
    "Gemm": (lambda: apply(Gemm(transB=1), flat, w, row), 0),
    "normalized": (lambda: lg.ops.layer_normalization(x, row), 0),
    "reduced": (lambda: x.transpose((1, 0, 2)).sum(axis=0), 0),
    "reduced and kept": (lambda: x.max(axis=1, keepdims=True) * x, 0),
    "the largest": (lambda: apply(ArgMax(2, 0), x), 0),
    "reshaped": (lambda: x.reshape((B, 24)), 0),
    "samples of several rows": (lambda: (x.reshape((B * 4, 6)) @ w).reshape((B * 2, 2, 6)).transpose((1, 0, 2)), 1),
    "flattened": (lambda: apply(Flatten(), image), 0),
    "squeezed": (lambda: lg.ops.squeeze(lg.ops.unsqueeze(x, (0, 2)), 2), 1),
    "sliced": (lambda: x[:, 1:3, ::2], 0),
    "joined": (lambda: lg.ops.concat([x, z * 2], 1), 0),
    "padded": (lambda: lg.ops.pad(x, (0, 1, 0), (0, 0, 2)), 0),
    "a running sum": (lambda: apply(CumSum(1), x), 0),
    "a triangle": (lambda: apply(Trilu(), x), 0),
    "convolved": (lambda: apply(Conv((1, 1), (0,) * 4, (1, 1), 1), image, kernel), 0),
    "convolved back": (lambda: apply(ConvTranspose((1, 1), (0,) * 4, (1, 1), (0, 0)), image, kernel), 0),
    "pooled": (lambda: apply(MaxPool((2, 2)), image) + apply(AveragePool((2, 2)), image), 0),
    "pooled whole": (lambda: apply(GlobalAveragePool(), image), 0),
    "looked up": (lambda: apply(Gather(0), table, ids), 0),
    "looked up in a later axis": (lambda: apply(Gather(1), w, ids), 1),
    "picked": (lambda: apply(Gather(1), x, constant([0, 3, 3])), 0),
    "picked by the sample": (lambda: apply(GatherElements(1), ids, lg.ops.clip(ids, 0, 3)), 0),
    "a recurrence": (recurrent, 2),
    "equal for all": (lambda: x + apply(Expand((B, 4, 6)), table), 0),
    "its own rows": (lambda: apply(GatherND(), x, own_rows()), 0),
    "its own rows of all": (
        lambda: apply(Gather(0), x.reshape((B * 4, 6)), lg.ops.unsqueeze(arange(B) * 4, 1) + arange(4)),
        0,
    ),
}


def arrays(count: int) -> dict[str, Any]:
    rng = np.random.default_rng(count)
    return {
        leaf.op.label: rng.integers(0, 4, (count, 4))  # type: ignore[attr-defined]
        if leaf is ids
        else rng.standard_normal((count, *leaf.shape[1:]))
        for leaf in LEAVES
    }


def classified(value: lg.Value) -> Samples:
    return Samples.of(Graph(LEAVES, {"y": value}), LEAVES, {"w", "table", "row", "kernel", "W", "R"}, B, 5)


@pytest.mark.parametrize("what", APART)
def test_each_sample_alone_gives_its_part(what: str) -> None:
    make, axis = APART[what]
    value = make()
    assert classified(value).axes[value] == axis
    rng = np.random.default_rng(0)
    graph = Graph(LEAVES, {"y": value})
    state = {name: rng.standard_normal(leaf.shape) for name, leaf in graph.parameters.items()}
    given = arrays(5)
    whole = evaluate(graph, given, state)["y"]
    alone = [evaluate(graph, {n: a[i : i + 1] for n, a in given.items()}, state)["y"] for i in range(5)]
    np.testing.assert_allclose(whole, np.concatenate(alone, axis), rtol=1e-12, atol=1e-12)


MIXED: dict[str, Callable[[], lg.Value]] = {
    "a mean over the samples": lambda: x - x.mean(axis=0),
    "a softmax over them": lambda: lg.ops.softmax(x, axis=0),
    "a sum along them": lambda: apply(CumSum(0), x),
    "products of samples": lambda: flat @ flat.T,
    "products over samples": lambda: flat.T @ flat,
    "pairs of samples": lambda: lg.ops.unsqueeze(flat, 0) - lg.ops.unsqueeze(flat, 1),
    "a part of them": lambda: x[1:],
    "all but one more": lambda: lg.ops.concat([x, z], 0),
    "joined into the features": lambda: x.transpose((1, 0, 2)).reshape((4, B * 6)),
    "a share": lambda: x / size_of(B, np.float64),
    "the number of the sample": lambda: flat + lg.ops.unsqueeze(arange(B).astype(np.float64), 1),
    "rows of others": lambda: apply(Gather(0), x, (arange(B) * 0)),
    "rows of others by pairs": lambda: apply(GatherND(), x, own_rows() * constant([0, 1])),
    "where the largest is in the batch": lambda: apply(MaxPoolIndices((2, 2)), image),
    "what trains": lambda: x @ moving,
    "another input": lambda: x + input("mask", np.float64, ("batch", 4, 6)),
    "of no rule": lambda: apply(lg.ir.OPS["Einsum"]("bij,bjk->bik"), x, w.reshape((1, 6, 6))),
}


@pytest.mark.parametrize("what", MIXED)
def test_what_mixes_samples_or_moves_is_neither(what: str) -> None:
    value = MIXED[what]()
    found = classified(value)
    assert value not in found.axes
    assert value not in found.free


def test_what_has_nothing_to_do_with_samples() -> None:
    value = (w @ w + constant(1.0)) * size_of(dims.dim("time"), np.float64)
    found = classified(value)
    assert value in found.free
    assert value not in found.axes
