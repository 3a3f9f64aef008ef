"""Merging: every way to write an adapter beside a weight becomes one product with one weight."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from lora_graph import ops
from lora_graph.interpret import evaluate
from lora_graph.ir import OPS, Graph, Value, apply
from lora_graph.rewrite import Facts, Refusal, optimize_graph
from lora_graph.rewrite.merge import MAX_BYPASS, linear_weight
from tests.rewrite.running import arrays, assert_same, graph_of

SIZES = {"batch": 3, "time": 2}


def x(*shape: int | str, name: str = "x") -> Value:
    return ops.input(name, "float64", shape or ("batch", 6))


def p(name: str, *shape: int) -> Value:
    return ops.parameter(name, "float64", shape)


X, CUBE = x(), x("batch", "time", 6, name="cube")
W, V, A, B = p("base.W", 6, 4), p("V", 6, 4), p("lora.A", 6, 2), p("lora.B", 2, 4)
A2, B2, b, b2 = p("second.A", 6, 3), p("second.B", 3, 4), p("base.b", 4), p("b2", 4)
M = p("m", 4)


def kronecker(h: Value) -> Value:
    """s · reshape(A X Bᵀ) with A [2, 3], B [2, 2]: the weight [6, 4] is (A ⊗ B)ᵀ."""
    first, second = p("lokr.A", 2, 3), p("lokr.B", 2, 2)
    return (first @ (h.reshape(*h.shape[:-1], 3, 2) @ second.T)).reshape(*h.shape[:-1], 4) * 0.5


def low(h: Value) -> Value:
    return h @ A @ B * 2.0


def gemm(*operands: Value, **attributes: float) -> Value:
    return apply(OPS["Gemm"](**attributes), *operands)


FORMS: dict[str, Callable[[], Value]] = {
    "(xA)B s": lambda: X @ W + (X @ A) @ B * 2.0,
    "s (xA)B": lambda: X @ W + 2.0 * ((X @ A) @ B),
    "x(AB) s": lambda: X @ W + X @ (A @ B) * 2.0,
    "x(A(sB))": lambda: X @ W + X @ (A @ (B * 2.0)),
    "(xs A)B": lambda: X @ W + (X * 2.0 @ A) @ B,
    "((xA)s)B": lambda: X @ W + (X @ A * 2.0) @ B,
    "first": lambda: low(X) + X @ W,
    "over 4": lambda: X @ W + (X @ A) @ B / 4.0,
    "subtracted": lambda: X @ W - low(X),
    "plus negative": lambda: X @ W + -low(X),
    "(xW + b) + d": lambda: (X @ W + b) + low(X),
    "(b + xW) + d": lambda: (b + X @ W) + low(X),
    "(xW + d) + b": lambda: (X @ W + low(X)) + b,
    "xW + (d + b)": lambda: X @ W + (low(X) + b),
    "xW + (b + d)": lambda: X @ W + (b + low(X)),
    "(xW + b) + (d + b2)": lambda: (X @ W + b) + (low(X) + b2),
    "(xW + b) - d": lambda: (X @ W + b) - low(X),
    "transposed weight": lambda: X @ p("Wt", 4, 6).T + low(X),
    "transposed pair": lambda: X @ W + X @ p("At", 2, 6).T @ p("Bt", 4, 2).T,
    "per feature after": lambda: X @ W + low(X) * M,
    "per feature row": lambda: X @ W + low(X) * p("row", 1, 4),
    "per feature before": lambda: X @ W + low(X * p("n", 6)),
    "per rank": lambda: X @ W + (X @ A * p("r", 2)) @ B,
    "sum of two": lambda: X @ W + (low(X) + X @ A2 @ B2),
    "two in a row": lambda: (X @ W + low(X)) + X @ A2 @ B2,
    "two and a bias": lambda: ((X @ W + b) + low(X)) + X @ A2 @ B2,
    "adapter on adapter": lambda: X @ W + (X @ A + X @ p("inner.A", 6, 1) @ p("inner.B", 1, 2)) @ B,
    "Kronecker": lambda: X @ W + kronecker(X),
    "Kronecker and low rank": lambda: X @ W + b + kronecker(X) + low(X),
    "sequence": lambda: CUBE @ W + b + low(CUBE),
    "Kronecker on a sequence": lambda: CUBE @ W + kronecker(CUBE),
    "Gemm base": lambda: gemm(X, p("Wt", 4, 6), b, transB=1) + low(X),
    "Gemm base and pair": lambda: gemm(X, W, b) + gemm(gemm(X, A), B, alpha=2.0),
    "Gemm with the bypass as C": lambda: gemm(X, W, low(X), beta=0.5),
    "identity": lambda: X @ p("square", 6, 6) + X,
    "slice": lambda: X @ W + X[:, :4],
    "padded": lambda: X @ p("wide", 6, 8) + ops.pad(X, [0, 0], [0, 2]),
}


def merged_products(graph: Graph) -> list[Value]:
    return [value for value in graph.values if value.op.name in ("MatMul", "Gemm")]


@pytest.mark.parametrize("form", FORMS)
def test_every_form_becomes_one_product(form: str, rng: np.random.Generator) -> None:
    before = graph_of({"y": FORMS[form]()})
    optimized = optimize_graph(before, "deploy")
    (product,) = merged_products(optimized.graph)
    assert product.operands[1].op.name in ("Parameter", "Transpose")
    inputs, state = arrays(before, rng, SIZES)
    results = evaluate(optimized.graph, inputs, optimized.state(state))
    assert_same(results, evaluate(before, inputs, state), 1e-12)


@pytest.mark.parametrize("batch", [0, 1])
@pytest.mark.parametrize("form", ["(xA)B s", "Kronecker on a sequence", "Gemm base"])
def test_empty_and_single_batches(form: str, batch: int, rng: np.random.Generator) -> None:
    before = graph_of({"y": FORMS[form]()})
    optimized = optimize_graph(before, "deploy")
    inputs, state = arrays(before, rng, {"batch": batch, "time": 2})
    results = evaluate(optimized.graph, inputs, optimized.state(state))
    assert_same(results, evaluate(before, inputs, state), 1e-12)


BYPASSES: dict[str, Callable[[Value], Value]] = {
    "low rank": low,
    "Kronecker": kronecker,
    "features": lambda h: low(h) * M / 3.0,
    "stacked": lambda h: low(h) - kronecker(h) + -(h @ V),
    "moved": lambda h: ops.squeeze(ops.unsqueeze(h[..., 1:5], -1), -1),
}


@pytest.mark.parametrize("h", [X, CUBE], ids=["batch", "sequence"])
@pytest.mark.parametrize("name", BYPASSES)
def test_the_value_at_the_identity_is_the_weight(name: str, h: Value, rng: np.random.Generator) -> None:
    weight = linear_weight(Facts("all"), BYPASSES[name](h), h)
    assert isinstance(weight, Value)
    before = graph_of({"y": BYPASSES[name](h)})
    inputs, state = arrays(before, rng, SIZES)
    matrix = evaluate(graph_of({"m": weight}), {}, state)["m"]
    assert matrix.shape == (6, 4)
    (array,) = inputs.values()
    assert_same({"y": array @ matrix}, evaluate(before, inputs, state), 1e-12)


def test_a_kronecker_bypass_has_the_kronecker_product_as_weight(rng: np.random.Generator) -> None:
    weight = linear_weight(Facts("all"), kronecker(X), X)
    assert isinstance(weight, Value)
    state = {"lokr.A": rng.standard_normal((2, 3)), "lokr.B": rng.standard_normal((2, 2))}
    matrix = evaluate(graph_of({"m": weight}), {}, state)["m"]
    np.testing.assert_allclose(matrix, 0.5 * np.kron(state["lokr.A"], state["lokr.B"]).T, rtol=0, atol=1e-12)


REFUSALS: dict[str, tuple[Callable[[], Value], str]] = {
    "Relu in the middle": (lambda: X @ W + ops.relu(X @ A) @ B, "Relu on the way is not linear in float64[batch, 6]"),
    "Relu at the end": (lambda: X @ W + ops.relu(low(X)), "Relu on the way is not linear"),
    "Relu at the start": (lambda: X @ W + ops.relu(X) @ V, "Relu on the way is not linear"),
    "bias inside": (lambda: X @ W + (X @ A + p("a", 2)) @ B, "Add on the way is not linear"),
    "square": (lambda: X @ W + (X * X) @ V, "Mul on the way is not linear"),
    "gate": (lambda: X @ W + low(X) * x("batch", 1, name="gate"), "Mul on the way is not linear"),
    "mixes the batch": (lambda: X @ W + low(X[::-1]), "Slice on the way is not linear"),
    "one dimension": (lambda: x(6, name="row") @ W + low(x(6, name="row")), "has no batch axis"),
    "dynamic weight": (lambda: X @ x(6, 4, name="w") + low(X), "depends on the inputs"),
    "used elsewhere": (lambda: ops.concat([X @ W + low(X), X @ W], 0), "MatMul inside is used elsewhere too"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_cannot_be_merged_exactly_says_why(name: str, rng: np.random.Generator) -> None:
    build, reason = REFUSALS[name]
    before = graph_of({"y": build()})
    optimized = optimize_graph(before, "merge")
    assert any(reason in refused.reason for refused in optimized.report.refusals)
    inputs, state = arrays(before, rng, SIZES)
    results = evaluate(optimized.graph, inputs, optimized.state(state))
    assert_same(results, evaluate(before, inputs, state), 1e-12)
    assert not any(name.startswith("merge") for name in optimized.report.fired)


def test_what_has_nothing_to_do_with_the_weight_is_not_refused() -> None:
    other = ops.relu(x(name="other") @ V)
    optimized = optimize_graph(graph_of({"y": X @ W + b + other}), "merge")
    assert optimized.report.refusals == []


def test_a_longer_bypass_than_is_looked_at_stays() -> None:
    bypass = X
    for i in range(MAX_BYPASS):
        bypass = bypass * p(f"s{i}", 6)
    assert linear_weight(Facts("all"), bypass @ V, X) is None
    assert isinstance(linear_weight(Facts("all"), bypass.operands[0] @ V, X), Value)


def test_what_several_inputs_reach_is_refused() -> None:
    found = linear_weight(Facts("all"), (X @ A + x(name="other") @ A) @ B, X)
    assert isinstance(found, Refusal)
    assert "depends on Input" in found.reason


def test_a_tied_weight_is_merged_for_the_use_that_is_adapted_only(rng: np.random.Generator) -> None:
    other = x(name="other")
    before = graph_of({"adapted": X @ W + low(X), "plain": other @ W})
    optimized = optimize_graph(before, "deploy")
    inputs, state = arrays(before, rng, SIZES)
    new = optimized.state(state)
    assert new["base.W"] is state["base.W"]
    (untied,) = set(new) - {"base.W"}
    np.testing.assert_allclose(new[untied], state["base.W"] + 2 * state["lora.A"] @ state["lora.B"], rtol=0, atol=1e-12)
    assert_same(evaluate(optimized.graph, inputs, new), evaluate(before, inputs, state), 1e-12)


def test_a_weight_with_two_adapters_on_two_inputs_becomes_two_weights(rng: np.random.Generator) -> None:
    other = x(name="other")
    before = graph_of({"first": X @ W + low(X), "second": other @ W + other @ A2 @ B2})
    optimized = optimize_graph(before, "deploy")
    inputs, state = arrays(before, rng, SIZES)
    assert len(optimized.graph.parameters) == 2
    results = evaluate(optimized.graph, inputs, optimized.state(state))
    assert_same(results, evaluate(before, inputs, state), 1e-12)


def test_a_bypass_that_reshapes_a_reshaped_input_anew_is_merged() -> None:
    """The Reshape of a Kronecker bypass and that of its input become one, which no longer mentions the input."""
    images = x("batch", 2, 3, name="images")
    features = images.reshape("batch", 6)
    graph = graph_of({"y": features @ W + kronecker(features)})
    result = optimize_graph(graph, "deploy")
    assert [value.op.name for value in result.graph.values if value.operands] == ["Reshape", "MatMul"]
    given, state = arrays(graph, np.random.default_rng(0), SIZES)
    change = 0.5 * np.kron(state["lokr.A"], state["lokr.B"]).T
    expected = given["images"].reshape(3, 6) @ (state["base.W"] + change)
    found = evaluate(result.graph, given, result.state(state))["y"]
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)
