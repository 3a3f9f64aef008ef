"""Singular values by sketching, and the ranks that follow from them, against NumPy."""

from __future__ import annotations

import numpy as np
import pytest

from lora_graph.inspect.spectrum import as_matrix, entropy_rank, rank_of, singular_values, tolerance


@pytest.mark.parametrize("rank", [0, 1, 8, 63, 65, 200])
@pytest.mark.parametrize("shape", [(300, 900), (900, 300), (20, 30)])
def test_the_rank_of_a_product(rank: int, shape: tuple[int, int], rng: np.random.Generator) -> None:
    matrix = rng.normal(size=(shape[0], rank)) @ rng.normal(size=(rank, shape[1]))
    found, exact = singular_values(matrix), np.linalg.svd(matrix, compute_uv=False)
    largest = float(exact.max())
    assert np.abs(found - exact[: len(found)]).max() <= 1e-12 * largest
    assert (exact[len(found) :] <= 1e-12 * largest).all()
    assert rank_of(found, tolerance(shape, largest)) == min(rank, *shape) == np.linalg.matrix_rank(matrix)


def test_small_directions_of_a_large_matrix_are_found(rng: np.random.Generator) -> None:
    left, right = (np.linalg.qr(rng.normal(size=(size, 12)))[0] for size in (400, 700))
    sizes = 10.0 ** -np.arange(12)
    found = singular_values(left * sizes @ right.T)
    np.testing.assert_allclose(found[:12], sizes, atol=1e-15)
    assert rank_of(found, tolerance((400, 700), 1.0)) == 12


def test_the_same_matrix_gives_the_same_values(rng: np.random.Generator) -> None:
    matrix = rng.normal(size=(400, 3)) @ rng.normal(size=(3, 400))
    assert np.array_equal(singular_values(matrix), singular_values(matrix))


def test_the_entropy_rank() -> None:
    assert entropy_rank(np.zeros(4)) == 0
    assert entropy_rank(np.array([2.0, 0.0])) == pytest.approx(1)
    assert entropy_rank(np.full(5, 0.3)) == pytest.approx(5)
    p = np.array([0.7, 0.2, 0.1])
    assert entropy_rank(7 * p) == pytest.approx(1 / np.prod(p**p))


def test_weights_as_matrices() -> None:
    kernel = np.arange(24.0).reshape(2, 3, 2, 2)
    assert np.array_equal(as_matrix(kernel), kernel.reshape(2, 12))
    assert as_matrix(np.ones((1, 8, 3), np.float32)).shape == (8, 3)
    assert as_matrix(np.ones((1, 8, 3), np.float32)).dtype == np.float64
    assert as_matrix(np.ones(4)).shape == (4, 1)
    assert as_matrix(np.float32(3)).shape == (1, 1)


def test_the_tolerance_is_that_of_matrix_rank() -> None:
    assert tolerance((3, 7), 2.0) == 7 * np.finfo(np.float64).eps * 2.0
    assert tolerance((3, 7), 2.0, np.float32) == 7 * float(np.finfo(np.float32).eps) * 2.0
