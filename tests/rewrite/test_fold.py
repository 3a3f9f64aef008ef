"""Folding constants, and the prelude: names, shapes, whose parameters meet, and that large arrays stay untouched."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from lora_graph import ops
from lora_graph.interpret import evaluate
from lora_graph.ir import OPS, Graph, Note, Value, apply, constant, dim
from lora_graph.rewrite import Facts, optimize_graph
from lora_graph.rewrite.fold import fold_constants, hoist, run_prelude
from tests.rewrite.running import arrays, assert_same, graph_of

X = ops.input("x", "float64", ("batch", 6))


def p(name: str, *shape: int, trainable: bool = True) -> Value:
    return ops.parameter(name, "float64", shape, trainable)


W, A, B, b = p("base.weight", 6, 4), p("lora.A", 6, 2), p("lora.B", 2, 4), p("base.bias", 4)
ADAPTED = graph_of({"y": ops.relu(X @ W + (X @ A) @ B * 2.0 + b)})


def test_ops_on_constants_alone_are_computed() -> None:
    value = X * (constant([1.0, 2.0, 3.0]) * 2.0).sum().sqrt()
    new, record = fold_constants(graph_of({"y": value}))
    assert new.outputs["y"] is X * constant(np.sqrt(12.0))
    assert record.fired == {"fold": 3}


def test_dtypes_and_shapes_are_kept() -> None:
    for dtype in ("float16", "float32", "int32", "bool"):
        value = ops.expand(constant(1, dtype), (2, 3))
        new, _ = fold_constants(graph_of({"y": value}))
        assert new.outputs["y"].op.name == "Constant"
        assert new.outputs["y"].type == value.type


def test_what_is_too_large_for_a_constant_stays() -> None:
    small, large = ops.expand(constant(1.0), (128,)), ops.expand(constant(1.0), (129,))
    new, record = fold_constants(graph_of({"small": small, "large": large}))
    assert new.outputs["large"] is large
    assert new.outputs["small"].op.name == "Constant"
    assert record.fired == {"fold": 1}


def test_what_depends_on_a_dimension_stays() -> None:
    moved = apply(OPS["Pad"]((dim("batch"), -dim("batch"))), constant([1.0, 2.0]))  # type: ignore[operator]
    assert moved.type.is_static
    value = X.sum() + moved.sum()
    new, record = fold_constants(graph_of({"y": value}))
    assert new.outputs["y"] is value
    assert record.fired == {}


def test_undefined_numbers_are_folded_silently() -> None:
    new, _ = fold_constants(graph_of({"y": X + constant(-1.0).log()}))
    assert new.outputs["y"] is X + constant(np.nan)


def test_nothing_to_fold_gives_back_the_graph_itself() -> None:
    assert fold_constants(ADAPTED)[0] is ADAPTED
    assert hoist(graph_of({"y": X @ W}), Facts("all"))[0] == graph_of({"y": X @ W})


def test_names_follow_what_is_folded() -> None:
    value = X * (constant(2.0) * 3.0)
    notes = {value: Note(name="scaled", scope="0"), value.operands[1]: Note(name="six")}
    new, _ = fold_constants(Graph((X,), {"y": value}, notes))
    assert new.notes == {new.outputs["y"]: notes[value], constant(6.0): notes[value.operands[1]]}


def test_a_merged_weight_keeps_its_name_its_shape_and_its_array_is_computed(rng: np.random.Generator) -> None:
    optimized = optimize_graph(ADAPTED, "deploy")
    assert {n: v.shape for n, v in optimized.graph.parameters.items()} == {"base.weight": (6, 4), "base.bias": (4,)}
    _, state = arrays(ADAPTED, rng, {"batch": 2})
    new = optimized.state(state)
    expected = state["base.weight"] + 2 * state["lora.A"] @ state["lora.B"]
    np.testing.assert_allclose(new["base.weight"], expected, rtol=0, atol=1e-12)
    assert new["base.bias"] is state["base.bias"]
    assert set(new) == {"base.weight", "base.bias"}


def test_folding_one_parameter_at_a_time_never_mixes_adapter_and_base() -> None:
    graph = graph_of({"y": X @ (W * 3.0) + X @ (A * 2.0) @ B + X @ (W + A @ B)})
    new, prelude, _ = hoist(graph, Facts("one"))
    assert prelude is not None
    assert set(new.parameters) == {"base.weight", "base.weight.folded", "lora.A", "lora.A.folded", "lora.B"}
    for name, value in prelude.outputs.items():
        sources = set(graph_of({"y": value}).parameters)
        assert sources == {name.removesuffix(".folded")}


@pytest.mark.parametrize("preset", ["inference", "export"])
def test_presets_that_keep_adapters_keep_every_parameter_apart(preset: str) -> None:
    optimized = optimize_graph(ADAPTED, preset)
    assert set(optimized.graph.parameters) == set(ADAPTED.parameters)
    for prelude, _ in optimized.preludes:
        assert all(len(graph_of({"y": value}).parameters) == 1 for value in prelude.outputs.values())


def test_training_keeps_every_parameter_as_it_is() -> None:
    optimized = optimize_graph(ADAPTED, "train")
    assert optimized.preludes == ()
    assert set(optimized.graph.parameters.values()) == set(ADAPTED.parameters.values())


def test_whether_a_parameter_is_trainable_is_kept() -> None:
    new, _, _ = hoist(graph_of({"y": X @ (p("frozen", 6, 4, trainable=False) * 2.0)}), Facts("one"))
    assert new.parameters["frozen"].op.trainable is False  # type: ignore[attr-defined]


def test_views_are_not_hoisted() -> None:
    graph = graph_of({"y": X @ p("w", 4, 6).T + p("v", 2, 2).reshape(4)})
    new, prelude, _ = hoist(graph, Facts("all"))
    assert new is graph
    assert prelude is None


def test_of_a_view_of_something_computed_the_computation_is_hoisted(rng: np.random.Generator) -> None:
    graph = graph_of({"y": X @ (p("w", 4, 6) * 2.0).T})
    new, prelude, _ = hoist(graph, Facts("all"))
    assert new.outputs["y"] is X @ p("w", 4, 6).T
    inputs, state = arrays(graph, rng, {"batch": 2})
    assert_same(evaluate(new, inputs, run_prelude(prelude, new, state)), evaluate(graph, inputs, state), 0.0)


def test_an_output_that_depends_on_weights_alone_is_hoisted() -> None:
    new, prelude, _ = hoist(graph_of({"norm": (W * W).sum(), "y": X @ W}), Facts("all"))
    assert prelude is not None
    assert new.outputs["norm"].op.name == "Parameter"
    assert new.parameters["base.weight"] is W


def test_shared_subgraphs_are_computed_once() -> None:
    shared = A @ B
    new, prelude, record = hoist(graph_of({"y": X @ (W + shared), "z": X @ shared}), Facts("all"))
    assert prelude is not None
    assert record.fired == {"hoist": 2}
    assert [value.op.name for value in prelude.values].count("MatMul") == 1
    assert len(new.parameters) == 2


@pytest.mark.parametrize("preset", ["train", "inference", "export", "merge", "deploy"])
def test_large_arrays_are_neither_copied_nor_read(preset: str) -> None:
    """A weight of 200 MB that occupies 8 bytes: whatever copied, hashed or wrote it would need the memory."""
    x = ops.input("x", "float64", ("batch", 5000))
    graph = graph_of({"y": ops.relu(x @ p("huge", 5000, 5000) + p("bias", 5000) * 2.0)})
    state = {"huge": np.broadcast_to(np.float64(0.5), (5000, 5000)), "bias": np.ones(5000)}
    tracemalloc.start()
    try:
        optimized = optimize_graph(graph, preset)
        new = optimized.state(state)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert new["huge"] is state["huge"]
    assert peak < 10_000_000


def test_a_new_weight_has_as_many_axes_as_the_one_it_replaces() -> None:
    cut = A.reshape((2, 3, 2))[:, :2].reshape((4, 2))
    new, _, _ = hoist(graph_of({"y": ops.input("h", "float64", ("batch", 4)) @ cut}), Facts("one"))
    assert {name: leaf.shape for name, leaf in new.parameters.items()} == {"lora.A": (4, 2)}
