"""The reference evaluation against plain NumPy."""

import numpy as np
import pytest

from lora_graph import ops
from lora_graph.autodiff import gradients
from lora_graph.interpret import evaluate
from lora_graph.ir import Graph
from tests.interpret.programs import arrays


def lora_loss():
    x, t = (ops.input(name, "float64", ("batch", size)) for name, size in (("x", 5), ("t", 3)))
    w = ops.parameter("w", "float64", (5, 3))
    a, b = ops.parameter("a", "float64", (5, 2)), ops.parameter("b", "float64", (2, 3))
    y = x @ w + x @ a @ b * 2.0
    loss = ((y - t) * (y - t)).mean()
    return Graph((x, t), {"y": y, "loss": loss, **dict(zip("ab", gradients(loss, [a, b]), strict=True))})


@pytest.mark.parametrize("batch", [1, 4])
def test_forward_and_backward_are_the_formulas(rng, batch):
    x, t = rng.normal(size=(batch, 5)), rng.normal(size=(batch, 3))
    state = {"w": rng.normal(size=(5, 3)), "a": rng.normal(size=(5, 2)), "b": rng.normal(size=(2, 3))}
    got = evaluate(lora_loss(), {"x": x, "t": t}, state)
    y = x @ (state["w"] + 2 * state["a"] @ state["b"])
    g = 2 * (y - t) / y.size
    np.testing.assert_allclose(got["y"], y, rtol=1e-13)
    np.testing.assert_allclose(got["loss"], np.mean((y - t) ** 2), rtol=1e-13)
    np.testing.assert_allclose(got["a"], 2 * x.T @ g @ state["b"].T, rtol=1e-12)
    np.testing.assert_allclose(got["b"], 2 * (x @ state["a"]).T @ g, rtol=1e-12)


def test_dimensions_and_constants_become_arrays():
    x = ops.input("x", "float32", ("batch", 3))
    graph = Graph((x,), {"n": ops.size_of(x.shape[0]), "c": ops.constant([1.5, 2.5]), "x": x})
    given = np.zeros((4, 3), np.float32)
    got = evaluate(graph, {"x": given}, {})
    assert got["n"] == 4
    assert got["n"].dtype == np.int64
    np.testing.assert_array_equal(got["c"], [1.5, 2.5])
    assert not np.shares_memory(got["x"], given)


def test_numbers_are_cast_to_the_dtype_of_the_input(rng):
    x, k = ops.input("x", "float32", ("batch", 2)), ops.input("k", "int32", ())
    graph = Graph((x, k), {"y": x * 2.0, "k": k})
    got = evaluate(graph, {"x": [[1, 2], [3, 4.5]], "k": 7}, {})
    assert got["y"].dtype == np.float32
    np.testing.assert_array_equal(got["y"], [[2, 4], [6, 9]])
    assert got["k"].dtype == np.int32
    inputs, _ = arrays(rng, 3)
    assert evaluate(graph, {"x": inputs["x"][:, :2], "k": np.int64(1)}, {})["y"].dtype == np.float32
