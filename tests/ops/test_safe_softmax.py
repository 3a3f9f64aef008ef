"""SafeSoftmax: where nothing is seen there is neither a value nor a gradient, where PyTorch spells it so."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.special

from lora_graph import ops
from lora_graph.autodiff import gradients
from lora_graph.interpret import compile_graph
from lora_graph.ir import Graph
from lora_graph.rewrite import optimize_graph

X, C = (ops.input(name, "float64", ("batch", 4)) for name in "xc")
SCORES = np.array([[0.5, -np.inf, 2.0, 1e5], [-np.inf] * 4, [np.nan, 1.0, 2.0, 3.0], [1.0, np.inf, 2.0, 3.0]])


def spelled() -> Graph:
    p = ops.softmax(X)
    return Graph((X,), {"y": ops.where(ops.is_nan(p), 0.0, p)})


def test_what_is_not_a_number_is_zero(rng: np.random.Generator) -> None:
    graph = optimize_graph(spelled(), "train").graph
    assert graph.op_counts() == {"SafeSoftmax": 1}
    (dx,) = gradients(graph.outputs["y"], [X], C)
    program = compile_graph(Graph((X, C), {**graph.outputs, "dx": dx}))
    given = rng.standard_normal((4, 4))
    found = program.run({"x": SCORES, "c": given}, {})
    p = np.zeros((4, 4))
    p[0] = scipy.special.softmax(SCORES[0])
    np.testing.assert_allclose(found["y"], p, rtol=1e-14)
    np.testing.assert_allclose(found["dx"], p * (given - (given * p).sum(1, keepdims=True)), rtol=1e-12, atol=1e-14)


def test_onnx_runtime_agrees() -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    from lora_graph.onnx.model import lower

    graph = optimize_graph(spelled(), "train").graph
    session = onnxruntime.InferenceSession(lower(graph, {}).SerializeToString())
    (found,) = session.run(None, {"x": SCORES})
    np.testing.assert_allclose(found, compile_graph(graph).run({"x": SCORES}, {})["y"], rtol=1e-12)


@pytest.mark.torch
def test_gradient_is_that_of_pytorch(rng: np.random.Generator) -> None:
    torch = pytest.importorskip("torch")
    scores, given = SCORES[:2], rng.standard_normal((2, 4))
    x = torch.tensor(scores, requires_grad=True)
    y = torch.ops.aten._safe_softmax(x, -1)
    y.backward(torch.tensor(given))
    graph = optimize_graph(spelled(), "train").graph
    (dx,) = gradients(graph.outputs["y"], [X], C)
    found = compile_graph(Graph((X, C), {"dx": dx})).run({"x": scores, "c": given}, {})
    np.testing.assert_allclose(found["dx"], x.grad.numpy(), rtol=1e-12, atol=1e-14)
