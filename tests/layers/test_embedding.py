"""Embeddings: ids of any shape, gradients of the rows that were read, export."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

import lora_graph as lg
from tests.reference import close


@pytest.mark.parametrize("shape", [(), (4,), (2, 3), (2, 0), (2, 1, 3)], ids=str)
def test_every_number_becomes_its_row(shape: tuple[int, ...], rng: np.random.Generator) -> None:
    layer = lg.EmbeddingLayer(7, 3, dtype="float64", rng=0)
    ids = rng.integers(0, 7, shape)
    weight = layer.get_parameter("weight")
    np.testing.assert_array_equal(layer(ids), weight[ids])
    g = rng.normal(size=(*shape, 3))
    assert not layer.backward(g).any()
    expected = np.zeros((7, 3))
    for at in np.ndindex(shape):
        expected[ids[at]] += g[at]
    close(layer.get_parameter_gradients(), expected.ravel(), 1e-12)


def test_rows_start_standard_normal() -> None:
    weight = lg.EmbeddingLayer(400, 50, rng=0).get_parameter("weight")
    assert abs(weight.mean()) < 0.02
    assert abs(weight.std() - 1) < 0.02


@pytest.mark.parametrize("shape", [("batch",), ("batch", "time")], ids=str)
def test_onnx_runtime_computes_the_exported_layer(shape: tuple[str, ...], rng: np.random.Generator) -> None:
    for dtype in ("float32", "float64"):
        model = lg.Sequential([lg.EmbeddingLayer(5, 4, dtype=dtype, rng=1), lg.DenseLayer(4, 2, dtype=dtype, rng=2)])
        exported = lg.export_onnx(model, input_shape=shape)
        onnx.checker.check_model(exported, full_check=True)
        assert exported.graph.node[0].op_type == "Gather"
        assert [d.dim_param for d in exported.graph.input[0].type.tensor_type.shape.dim] == list(shape)
        ids = rng.integers(0, 5, (3, 2)[: len(shape)])
        close(lg.Session(exported).run(ids), model(ids), 1e-6)


def test_training_finds_the_vectors(rng: np.random.Generator) -> None:
    ids = rng.integers(0, 6, 300)
    model = lg.Sequential([lg.EmbeddingLayer(6, 4, rng=1), lg.DenseLayer(4, 6, rng=2)])
    history = lg.fit(
        model, (ids, (ids + 1) % 6), loss="cross_entropy", optimizer=lg.Adam(0.05), epochs=10, batch_size=50
    )
    assert history.losses[-1] < 0.1 * history.losses[0]
    assert (model(np.arange(6)).argmax(-1) == (np.arange(6) + 1) % 6).all()


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: lg.EmbeddingLayer(0, 2), ValueError, "count must be at least 1"),
        (lambda: lg.EmbeddingLayer(2, 2.5), TypeError, "size must be an int"),
        (lambda: lg.EmbeddingLayer(3, 2, rng=0)([0, 3]), ValueError, r"indices must be in -3\.\.2: index 3 "),
        (lambda: lg.EmbeddingLayer(3, 2, rng=0)([0.5]), TypeError, "x must hold integers"),
    ],
)
def test_errors(build: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        build()
