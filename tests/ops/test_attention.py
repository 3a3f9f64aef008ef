"""Attention as ONNX Runtime's own kernel computes it, what it passes back where nothing is seen, and its errors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lora_graph import ops
from lora_graph.autodiff import gradients
from lora_graph.ir import Graph, Value, apply, input  # noqa: A004
from lora_graph.onnx import Session, lower
from lora_graph.ops.attention import Attention
from lora_graph.ops.rotary import RotaryEmbedding
from tests.onnx.test_op_cases import feeds, program
from tests.op_cases import CASES, SIZES, Case
from tests.reference import close, run

NATIVE = [case for case in CASES if case.op.name in ("Attention", "RotaryEmbedding", "RMSNormalization")]


@pytest.mark.parametrize("opset", [23, 26])
@pytest.mark.parametrize("floats", ["float32", "float64"])
@pytest.mark.parametrize("case", NATIVE, ids=str)
def test_onnx_runtime_has_the_op_at_later_opsets(case: Case, floats: str, opset: int) -> None:
    graph, state = program(case, floats)
    model = lower(graph, state, opset=opset)
    is_there = case.op.name in {node.op_type for node in model.graph.node}
    assert is_there == (floats == "float32" or case.op.attributes().get("epsilon") == 0.5)
    truth = case.truth(case.arrays(floats))
    close(Session(model).run(feeds(case, floats, SIZES)), truth, 2e-6 if floats == "float32" else 1e-12)


def leaf(name: str, *shape: int | str, dtype: str = "float64") -> Value:
    return input(name, dtype, shape)


def test_a_query_that_sees_nothing_is_zero_and_passes_nothing_back() -> None:
    rng = np.random.default_rng(6)
    arrays = {name: rng.normal(size=(1, 1, 3, 2)) for name in "qkv"}
    mask = np.asarray([[True, False, True], [False] * 3, [True] * 3])
    q, k, v = (leaf(name, 1, 1, 3, 2) for name in "qkv")
    y = ops.attention(q, k, v, leaf("mask", 3, 3, dtype="bool"))
    found = run([y, *gradients(y.sum(), [q, k, v])], arrays | {"mask": mask})
    assert all(np.isfinite(array).all() for array in found)
    assert not found[0][0, 0, 1].any()
    assert not found[1][0, 0, 1].any()
    assert found[1][0, 0, 2].any()


def test_a_mask_is_stretched_over_the_queries() -> None:
    rng = np.random.default_rng(8)
    arrays = {name: rng.normal(size=(2, 1, 3, 2)) for name in "qkv"}
    row = np.asarray([0.0, 1.0, -np.inf])
    q, k, v = (leaf(name, 2, 1, 3, 2) for name in "qkv")
    y = ops.attention(q, k, v, leaf("row", 3), scale=1.0)
    scores = np.exp(arrays["q"] @ arrays["k"].swapaxes(2, 3) + row)
    close(run([y], arrays | {"row": row})[0], scores / scores.sum(-1, keepdims=True) @ arrays["v"], 1e-12)


Q, K = leaf("q", "batch", 4, "time", 6), leaf("k", "batch", 3, 5, 6)
THREE, WIDE = leaf("x", "batch", "time", 8), leaf("y", "batch", 5, 6)
ERRORS: list[tuple[Any, type[Exception], str]] = [
    (lambda: apply(Attention(), Q, K), ValueError, "takes Q, K, V and perhaps a mask, got 2"),
    (lambda: apply(Attention(), Q, K, K), ValueError, "3 heads of K and V cannot be shared by 4 of Q"),
    (lambda: apply(Attention(), Q, K, K.astype("float32")), TypeError, "floats of one dtype"),
    (lambda: apply(Attention(), THREE, THREE, THREE), ValueError, "three and numbers of heads"),
    (lambda: apply(Attention(0, 3, 3), THREE, WIDE, WIDE), ValueError, "3 heads do not divide the features"),
    (lambda: apply(Attention(), Q, Q, Q, leaf("m", 5)), ValueError, "must end in the queries and keys"),
    (lambda: apply(Attention(), Q, Q, Q, leaf("m", "time", "time", dtype="int64")), TypeError, "bool or float64"),
    (lambda: apply(RotaryEmbedding(), THREE, WIDE, WIDE), ValueError, "three and num_heads"),
    (lambda: apply(RotaryEmbedding(), Q, leaf("c", 7, 3), leaf("c", 7, 3)), ValueError, "cos and sin do not fit"),
    (
        lambda: apply(RotaryEmbedding(0, 0, 4), Q, *[leaf("c", "batch", "time", 3)] * 2),
        ValueError,
        "4 features of .* cannot turn",
    ),
]


@pytest.mark.parametrize(("build", "error", "words"), ERRORS)
def test_error(build: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        build()


def test_the_graph_of_attention_has_named_lengths() -> None:
    q, k = leaf("q", "batch", 2, "n", 4), leaf("k", "batch", 2, "m", 4)
    graph = Graph((q, k), {"y": ops.attention(q, k, k, is_causal=True)})
    assert str(graph.outputs["y"].type) == "float64[batch, 2, n, 4]"
