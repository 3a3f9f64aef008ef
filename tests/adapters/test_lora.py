"""LoRALayer: the numbers of the specification, its gradients by formula, and its errors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import lora_graph as lg
from tests.layers.cases import ACTIVATIONS
from tests.reference import close

A = np.array([[1.0, 0], [0, 1], [1, 1]])
B = np.array([[1.0, 2], [3, 4]])
X, G = np.array([1.0, 2, 3]), np.ones(2)


def golden() -> lg.LoRALayer:
    return lg.LoRALayer.from_matrices(A, B, alpha=4)


def test_golden_numbers() -> None:
    layer = golden()
    assert (layer.rank, layer.alpha, layer.scaling, layer.parameter_count) == (2, 4, 2, 10)
    assert layer.dtype == np.float64
    close(layer.forward(X), [38, 56], 1e-12)
    close(layer.forward([4, 5, 6]), [86, 128], 1e-12)
    close(layer.forward([X, [4, 5, 6]]), [[38, 56], [86, 128]], 1e-12)
    close(layer.merge_weights(), [[2, 4], [6, 8], [8, 12]], 1e-12)
    layer.forward(X)
    close(layer.backward(G), [6, 14, 20], 1e-12)
    close(layer.get_parameter_gradients(), [6, 14, 12, 28, 18, 42, 8, 8, 10, 10], 1e-12)
    layer.update_parameters(0.1)
    close(layer.get_matrix_a(), [[0.4, -1.4], [-1.2, -1.8], [-0.8, -3.2]], 1e-12)
    close(layer.get_matrix_b(), [[0.2, 1.2], [2, 3]], 1e-12)


@pytest.mark.parametrize("lead", [(), (4,), (2, 3), (2, 2, 2)], ids=str)
def test_gradients_by_formula(lead: tuple[int, ...], rng: np.random.Generator) -> None:
    a, b = rng.normal(size=(5, 2)), rng.normal(size=(2, 4))
    layer = lg.LoRALayer.from_matrices(a, b, alpha=3)
    x, g, s = rng.normal(size=(*lead, 5)), rng.normal(size=(*lead, 4)), 1.5
    layer.forward(x)
    close(layer.backward(g), s * g @ b.T @ a.T, 1e-12)
    rows, cotangents = x.reshape(-1, 5), g.reshape(-1, 4)
    da, db = s * rows.T @ cotangents @ b.T, s * (rows @ a).T @ cotangents
    close(layer.get_parameter_gradients(), np.concatenate([da.ravel(), db.ravel()]), 1e-12)


def test_it_starts_as_zero_and_normal() -> None:
    layer = lg.LoRALayer(1000, 1000, 8, rng=0)
    assert layer.parameter_count == 16_000
    assert (layer.alpha, layer.scaling) == (8, 1)
    assert not layer.get_matrix_b().any()
    assert not layer.forward(np.ones((2, 1000))).any()
    a = layer.get_matrix_a()
    assert a.shape == (1000, 8)
    assert abs(a.std() - 1 / np.sqrt(8)) < 0.01
    assert abs(a.mean()) < 0.02
    assert np.abs(a).max() > 2 / np.sqrt(8)  # not uniform


def test_kaiming_uniform() -> None:
    a = lg.LoRALayer(400, 50, 16, init="kaiming", rng=0).get_matrix_a()
    assert 0.99 / 20 < np.abs(a).max() <= 1 / 20
    assert abs(a.std() - 1 / 20 / np.sqrt(3)) < 0.001


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activation(activation: str, rng: np.random.Generator) -> None:
    layer = lg.LoRALayer(5, 4, 2, 6, activation, dtype="float64", rng=rng)
    layer.set_parameters(rng.normal(size=layer.parameter_count))
    x = rng.normal(size=(3, 5))
    close(layer.forward(x), ACTIVATIONS[activation](3 * x @ layer.get_matrix_a() @ layer.get_matrix_b()), 1e-12)
    if activation == "identity":
        close(layer.merge_weights(), 3 * layer.get_matrix_a() @ layer.get_matrix_b(), 1e-12)
    else:
        with pytest.raises(lg.MergeError, match=f"LoRALayer ends in {activation}"):
            layer.merge_weights()


def test_a_function_is_no_identity_for_its_name() -> None:
    def identity(x: lg.Value) -> lg.Value:
        return x.tanh()

    with pytest.raises(lg.MergeError):
        lg.LoRALayer(5, 4, 2, activation=identity).merge_weights()


def test_matrices_are_copies() -> None:
    layer = golden()
    layer.get_matrix_a()[:] = 0
    layer.get_matrix_b()[:] = 0
    layer.merge_weights()[:] = 0
    np.testing.assert_array_equal(layer.get_matrix_a(), A)
    given = A.copy()
    layer = lg.LoRALayer.from_matrices(given, B)
    given[:] = 0
    np.testing.assert_array_equal(layer.get_matrix_a(), A)


@pytest.mark.parametrize(
    ("given", "kept"),
    [("float64", "float64"), ("float32", "float32"), ("float16", "float32"), ("int64", "float32")],
)
def test_from_matrices_keeps_the_dtype_and_any_rank(given: str, kept: str) -> None:
    layer = lg.LoRALayer.from_matrices(np.ones((2, 5), given), np.ones((5, 3), given))
    assert layer.dtype == kept
    assert (layer.rank, layer.scaling) == (5, 1)
    np.testing.assert_array_equal(layer.forward([1, 1]), [10, 10, 10])


MATRICES: list[tuple[Any, Any, type[Exception], str]] = [
    (np.ones((3, 2)), np.ones((3, 2)), ValueError, r"must share a rank, got \(3, 2\) and \(3, 2\)"),
    (np.ones(3), np.ones((3, 2)), ValueError, "must share a rank"),
    (np.ones((3, 0)), np.ones((0, 2)), ValueError, "must share a rank"),
    (None, np.ones((3, 2)), TypeError, "A must be an array of numbers"),
    (np.ones((3, 2)), [["a", "b"]], TypeError, "B must be an array of numbers"),
]


@pytest.mark.parametrize(("a", "b", "error", "words"), MATRICES)
def test_matrices_that_do_not_fit(a: Any, b: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        lg.LoRALayer.from_matrices(a, b)


BAD: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: lg.LoRALayer(6, 4, 0), ValueError, r"rank must be at least 1 and less than 4 .*\[6, 4\], got 0"),
    (lambda: lg.LoRALayer(6, 1, 2), ValueError, r"a weight \[6, 1\] is too small for a low-rank pair.*got 2"),
    (lambda: lg.LoRALayer(6, 4, 4), ValueError, "rank must be at least 1 and less than 4 .* got 4"),
    (lambda: lg.LoRALayer(6, 4, -2), ValueError, "rank must be at least 1"),
    (lambda: lg.LoRALayer(6, 4, 2.0), TypeError, "rank must be an int, got 2.0"),  # type: ignore[arg-type]
    (lambda: lg.LoRALayer(6, 4, True), TypeError, "rank must be an int, got True"),
    (lambda: lg.LoRALayer(6, 4, 2, 0), ValueError, "alpha must not be 0"),
    (lambda: lg.LoRALayer(6, 4, 2, float("nan")), ValueError, "alpha must be finite, got nan"),
    (lambda: lg.LoRALayer(6, 4, 2, float("inf")), ValueError, "alpha must be finite, got inf"),
    (lambda: lg.LoRALayer(6, 4, 2, float("-inf")), ValueError, "alpha must be finite, got -inf"),
    (lambda: lg.LoRALayer(6, 4, 2, "8"), TypeError, "alpha must be a number"),  # type: ignore[arg-type]
    (lambda: lg.LoRALayer(6, 4, 2, True), TypeError, "alpha must be a number"),
    (lambda: lg.LoRALayer(6, 4, 2, None), TypeError, "alpha must be a number"),  # type: ignore[arg-type]
    (lambda: lg.LoRALayer(0, 4, 2), ValueError, "input_size must be at least 1"),
    (lambda: lg.LoRALayer(6, 4, 2, init="zeros"), ValueError, "init must be one of gaussian, kaiming, got 'zeros'"),
    (lambda: lg.LoRALayer(6, 4, 2, activation="swoosh"), ValueError, "activation must be one of"),
    (lambda: lg.LoRALayer.from_matrices(A, B, 0), ValueError, "alpha must not be 0"),
]


@pytest.mark.parametrize(("make", "error", "words"), BAD, ids=[words for _, _, words in BAD])
def test_arguments_that_cannot_be(make: Callable[[], Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        make()


def test_order_of_calls() -> None:
    layer = golden()
    with pytest.raises(RuntimeError, match="backward needs a forward first"):
        layer.backward(G)
    with pytest.raises(RuntimeError, match="no gradients"):
        layer.update_parameters(0.1)
    with pytest.raises(ValueError, match=r"x must end in \[3\]"):
        layer.forward(np.ones(4))
    np.testing.assert_array_equal(layer.get_parameters(), [*A.ravel(), *B.ravel()])


def test_diagnostics() -> None:
    found = golden().get_diagnostics()
    assert (found["rank"], found["alpha"], found["scaling"], found["activation"]) == ("2", "4", "2", "identity")
    assert set(map(type, found.values())) == {str}


def test_one_seed_one_pair() -> None:
    one, two = lg.LoRALayer(9, 8, 3, rng=4), lg.LoRALayer(9, 8, 3, rng=4)
    assert one.get_parameters().tobytes() == two.get_parameters().tobytes()
