"""How far weights moved: norms, ranks and types, against NumPy."""

from __future__ import annotations

import math
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import lora_graph as lg
from lora_graph import ops
from lora_graph.inspect.diffing import WeightChange, weights
from lora_graph.inspect.diffing.weights import as_matrix, rank_of
from lora_graph.inspect.inspected import Inspected

SINGLE, DOUBLE = np.finfo(np.float32).eps, np.finfo(np.float64).eps


def model(array: Any) -> Inspected:
    array = np.asarray(array)
    leaf = ops.parameter("W", array.dtype, array.shape)
    return Inspected.of(lg.Graph((), {"y": leaf.abs()}), state={"W": array})


def change(old: Any, new: Any, **options: Any) -> WeightChange:
    (found,) = lg.diff(model(old), model(new), **options).weights
    return found


def low(rng: np.random.Generator, rows: int, columns: int, rank: int) -> Any:
    return rng.normal(size=(rows, rank)) @ rng.normal(size=(rank, columns))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(5, 7), (7, 5), (130, 140), (300, 260)])
@pytest.mark.parametrize("rank", [0, 1, 4, 5])
def test_the_rank_of_a_change(shape: tuple[int, int], rank: int, dtype: str, rng: np.random.Generator) -> None:
    """The change is stored as the difference of two rounded matrices, and so has full rank to the last bit."""
    old = rng.normal(size=shape).astype(dtype)
    delta = low(rng, *shape, rank) + (rank == 0) * np.spacing(old)
    found = change(old, (old + delta).astype(dtype))
    assert (found.rank, found.full_rank) == (rank, min(shape))


@pytest.mark.parametrize("rank", [20, 55, 60, 64, 100, 150])
def test_ranks_around_the_width_of_the_projection(rank: int, rng: np.random.Generator) -> None:
    delta = low(rng, 150, 170, rank)
    assert rank == np.linalg.matrix_rank(delta)
    for epsilon in (SINGLE, DOUBLE):
        assert rank_of(delta, epsilon, 1.0) == rank_of(delta.T, epsilon, 1.0) == rank


def test_a_matrix_whose_high_rank_is_not_looked_for(monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator) -> None:
    monkeypatch.setattr(weights, "LARGEST", 140)
    old = np.zeros((150, 160), np.float32)
    assert change(old, low(rng, 150, 160, 3).astype(np.float32)).rank == 3
    found = change(old, rng.normal(size=(150, 160)).astype(np.float32))
    assert (found.rank, found.full_rank) == (None, 150)
    report = lg.diff(model(old), model(rng.normal(size=(150, 160)).astype(np.float32)))
    assert ", rank high of 150" in str(report)


def test_what_is_taken_as_a_matrix(rng: np.random.Generator) -> None:
    for shape, matrix in (
        ((8, 4, 3, 3), (8, 36)),
        ((1, 20, 5), (20, 5)),
        ((3, 1, 1), None),
        ((4,), None),
        ((), None),
        ((2, 0), (2, 0)),
    ):
        found = as_matrix(np.zeros(shape))
        assert (None if found is None else found.shape) == matrix
    kernel = low(rng, 8, 36, 2).reshape(8, 4, 3, 3)
    assert change(np.zeros_like(kernel), kernel).rank == 2


def test_norms(rng: np.random.Generator) -> None:
    old, new = rng.normal(size=(2, 3, 4, 5))
    found = change(old, new)
    assert found.norm == pytest.approx(np.linalg.norm((new - old).ravel()), rel=1e-14)
    assert found.relative == pytest.approx(np.linalg.norm((new - old).ravel()) / np.linalg.norm(old.ravel()), rel=1e-14)
    assert found.largest == np.abs(new - old).max()
    assert change(np.zeros(3), np.ones(3)).relative == math.inf
    assert change(np.ones(3), np.zeros(3)).relative == 1.0


def test_a_tolerance(rng: np.random.Generator) -> None:
    old = rng.normal(size=(4, 4))
    assert lg.diff(model(old), model(old * 1.01), rtol=0.0101).equal
    assert not lg.diff(model(old), model(old * 1.01), rtol=0.0099).equal


def test_what_is_not_finite() -> None:
    odd = np.array([[1.0, np.nan], [np.inf, 2.0]])
    assert lg.diff(model(odd), model(odd.copy())).equal
    found = change(odd, odd + np.array([[0.0, 0.0], [0.0, 1.0]]), rtol=10.0)
    assert math.isnan(found.norm)
    assert found.rank is None
    assert lg.diff(model(np.array([0.0])), model(np.array([-0.0]))).equal


def test_shapes_and_types() -> None:
    found = change(np.ones((2, 3), np.float32), np.ones((2, 4), np.float32))
    assert [str(kind) for kind in found.types] == ["float32[2, 3]", "float32[2, 4]"]
    assert math.isnan(found.norm)
    narrow = change(np.full((2, 3), 1 / 3, np.float32), np.full((2, 3), 1 / 3, np.float16), rtol=1.0)
    assert [kind.dtype.name for kind in narrow.types] == ["float32", "float16"]
    assert 0 < narrow.relative < 2**-11
    assert narrow.rank == 0
    brain = np.full((2, 3), 1 / 3, np.float32)
    assert change(brain, brain.astype(ml_dtypes.bfloat16)).rank == 0
    whole = change(np.arange(6).reshape(2, 3), np.arange(6).reshape(2, 3) * 2)
    assert (whole.largest, whole.rank) == (5.0, None)


def test_large_arrays_are_compared_in_full() -> None:
    """A digest looks at pieces of a large array only; the comparison at all of it."""
    old = np.zeros((600, 600), np.float32)
    for index in range(0, old.size, 25_013):
        new = old.copy()
        new.flat[index] = 1.0
        assert change(old, new).norm == 1.0
