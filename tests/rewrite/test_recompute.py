"""Recomputation: the same numbers bit for bit from less memory, and never more work than allowed."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from lora_graph import ops
from lora_graph.autodiff import gradients
from lora_graph.interpret import compile_graph
from lora_graph.ir import Graph, verify
from lora_graph.rewrite import optimize_graph
from lora_graph.rewrite.recompute import recompute
from lora_graph.rewrite.timeline import Timeline
from tests.interpret import programs
from tests.rewrite.running import arrays

SIZES = {"batch": 96}
LAYERS, WIDTH = 4, 128

BEFORE = """\
graph graph(%x: float32[batch, 64]) -> (y=%7) {
  %0: float32[batch, 64] = Tanh(%x)
  %w: float32[64, 256] = Parameter {label='w', type='float32[64, 256]', trainable=True}
  %1: float32[batch, 256] = MatMul(%0, %w)
  %2: float32[256, 64] = Transpose(%w) {perm=(1, 0)}
  %3: float32[batch, 64] = MatMul(%1, %2)
  %4: float32[batch, 256] = MatMul(%3, %w)
  %5: float32[batch, 256] = Softmax(%4) {axis=-1}
  %6: float32[batch, 64] = MatMul(%5, %2)
  %7: float32[batch, 64] = Add(%6, %0)
}"""
AFTER = """\
graph graph(%x: float32[batch, 64]) -> (y=%9) {
  %0: float32[batch, 64] = Tanh(%x)
  %w: float32[64, 256] = Parameter {label='w', type='float32[64, 256]', trainable=True}
  %1: float32[batch, 256] = MatMul(%0, %w)
  %2: float32[256, 64] = Transpose(%w) {perm=(1, 0)}
  %3: float32[batch, 64] = MatMul(%1, %2)
  %4: float32[batch, 256] = MatMul(%3, %w)
  %5: float32[batch, 256] = Softmax(%4) {axis=-1}
  %6: float32[batch, 64] = MatMul(%5, %2)
  %7: float32[batch, 64] = After(%x, %6)
  %8: float32[batch, 64] = Tanh(%7)
  %9: float32[batch, 64] = Add(%6, %8)
}"""


def deep(activation: str = "gelu", dtype: str = "float32") -> Graph:
    """Loss and gradients of layers h ← f(h W): only h W has to be kept for the gradients, f(h W) follows from it."""
    x = h = ops.input("x", dtype, ("batch", WIDTH))
    weights = [ops.parameter(f"w{i}", dtype, (WIDTH, WIDTH)) for i in range(LAYERS)]
    for weight in weights:
        h = ops.ACTIVATIONS[activation](h @ weight)
    loss = (h * h).mean()
    found = gradients(loss, weights)
    graph = Graph((x,), {"loss": loss, **{f"g{i}": g for i, g in enumerate(found)}})
    return optimize_graph(graph, "train").graph


def run(graph: Graph, sizes: Mapping[str, int], seed: int = 0) -> tuple[dict[str, np.ndarray], list[str]]:
    """The outputs, and the names of the ops in the order in which they ran."""
    inputs, state = arrays(graph, np.random.default_rng(seed), sizes)
    ran: list[str] = []
    found = compile_graph(graph).run(inputs, state, hook=lambda value, _: ran.append(value.op.name))
    return found, ran


def assert_identical(found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> None:
    assert list(found) == list(expected)
    for name, array in expected.items():
        assert found[name].tobytes() == array.tobytes(), name


@pytest.mark.parametrize("activation", ["gelu", "silu", "gelu_tanh", "elu"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_deep_network_trains_in_less_memory_to_the_same_bits(activation: str, dtype: str) -> None:
    graph = deep(activation, dtype)
    low = recompute(graph, SIZES, share=1)
    verify(low)
    before, after = compile_graph(graph).memory(SIZES), compile_graph(low).memory(SIZES)
    assert after < 0.8 * before, (before, after)
    assert_identical(run(low, SIZES)[0], run(graph, SIZES)[0])


def test_what_is_computed_again_runs_in_the_backward_pass() -> None:
    graph = deep()
    low = recompute(graph, SIZES, share=1)
    once, twice = run(graph, SIZES)[1], run(low, SIZES)[1]
    assert once.count("Erf") == LAYERS < twice.count("Erf") <= 2 * LAYERS
    forward = [name for name in twice if name in ("Erf", "MatMul")][: 2 * LAYERS]
    assert forward == ["MatMul", "Erf"] * LAYERS
    # the gradient of each layer has an Exp: what is computed again is never far ahead of it
    backward = [name for name in twice if name in ("Erf", "Exp")][LAYERS:]
    for end in range(len(backward)):
        assert backward[:end].count("Erf") <= backward[:end].count("Exp") + 2, backward


def test_no_more_work_than_allowed() -> None:
    graph = deep()
    assert recompute(graph, SIZES, share=0) is graph
    work = [Timeline(recompute(graph, SIZES, share), SIZES).work for share in (0, 0.05, 0.2, 1)]
    assert work == sorted(work)
    assert work[1] <= 1.05 * work[0] < work[3]
    assert work[2] <= 1.2 * work[0]


def test_nothing_to_gain() -> None:
    x = ops.input("x", "float32", ("batch", 8))
    graph = Graph((x,), {"y": ops.tanh(x @ ops.parameter("w", "float32", (8, 8)))})
    assert recompute(graph) is graph


def test_text_before_and_after() -> None:
    x, w = ops.input("x", "float32", ("batch", 64)), ops.parameter("w", "float32", (64, 256))
    kept = ops.tanh(x)
    wide = ops.softmax(kept @ w @ w.T @ w)
    graph = Graph((x,), {"y": wide @ w.T + kept})
    assert str(graph) == BEFORE
    assert str(recompute(graph, {"batch": 256}, share=1)) == AFTER


@pytest.mark.parametrize("seed", range(30))
def test_random_graphs_stay_the_same(seed: int) -> None:
    rng = np.random.default_rng(seed)
    graph = programs.random_graph(rng, 40)
    sizes = {"batch": 50}
    low = recompute(graph, sizes, share=100)
    verify(low)
    assert compile_graph(low).memory(sizes) <= compile_graph(graph).memory(sizes)
    inputs, state = programs.arrays(rng, 50)
    state = {name: state[name] for name in graph.parameters}
    assert_identical(compile_graph(low).run(inputs, state), compile_graph(graph).run(inputs, state))


def test_random_graphs_do_gain() -> None:
    changed = 0
    for seed in range(30):
        graph = programs.random_graph(np.random.default_rng(seed), 40)
        changed += recompute(graph, {"batch": 50}, share=100) is not graph
    assert changed >= 5


def test_onnx_runtime_computes_it_again_too() -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    from lora_graph.onnx.model import lower

    graph = deep()
    low = recompute(graph, SIZES, share=1)
    inputs, state = arrays(graph, np.random.default_rng(0), SIZES)
    expected = compile_graph(graph).run(inputs, state)
    session = onnxruntime.InferenceSession(lower(low, state).SerializeToString())
    for name, array in zip(expected, session.run(list(expected), inputs), strict=True):
        np.testing.assert_allclose(array, expected[name], rtol=0, atol=1e-5 * np.abs(expected[name]).max())
