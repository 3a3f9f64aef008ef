"""Differences against numbers computed by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lora_graph.inspect.differences import RTOL, Tolerance, difference, spacing

F16, F32, F64 = (np.dtype(name) for name in ("float16", "float32", "float64"))


def test_differences_are_the_largest_of_all_entries() -> None:
    # near 1 floats of 24 bits are 2^-23 apart, near 8 they are 2^-20 apart
    expected = np.array([1.0, 8.0, -2.0], np.float32)
    found = np.array([1.0 + 3 * 2.0**-23, 8.0 + 2.0**-20, -2.0], np.float32)
    apart = difference(found, expected, F32)
    assert apart.absolute == 2.0**-20
    assert apart.relative == 2.0**-23
    assert apart.scale == 8.0
    assert apart.ulp == 3.0


def test_a_wide_reference_gives_parts_of_a_unit() -> None:
    apart = difference(np.array([1.5], np.float32), np.array([1.5 + 2.0**-25]), F32)
    assert apart.ulp == 0.25


@pytest.mark.parametrize("dtype", [F16, F32, F64])
def test_the_next_number_is_one_unit_away(dtype: Any, rng: np.random.Generator) -> None:
    powers = rng.integers(-14, 15, 200)
    x = (rng.choice([-1, 1], 200) * rng.uniform(1, 1.9, 200) * 2.0**powers).astype(dtype)
    beyond = np.nextafter(x, np.sign(x) * np.inf, dtype=dtype)
    for a, b in zip(x, beyond, strict=True):
        assert difference(np.array([b]), np.array([a]), dtype).ulp == 1.0
    np.testing.assert_array_equal(spacing(np.abs(x).astype(np.float64), dtype), np.spacing(np.abs(x)))


def test_units_around_zero_are_those_of_the_smallest_numbers() -> None:
    tiny = np.array([np.finfo(np.float32).smallest_subnormal])
    assert difference(tiny, -tiny, F32).ulp == 2.0
    assert difference(tiny, np.zeros(1, np.float32), F32).ulp == 1.0


def test_bfloat16_has_seven_bits() -> None:
    import ml_dtypes

    kind = np.dtype(ml_dtypes.bfloat16)
    found, expected = (np.array([value], kind) for value in (1 + 2.0**-7, 1.0))
    apart = difference(found, expected, kind)
    assert (apart.absolute, apart.ulp) == (2.0**-7, 1.0)


def test_what_is_not_finite_equals_only_itself() -> None:
    same = np.array([np.nan, np.inf, -np.inf, 1.0])
    assert difference(same, same, F64).absolute == 0
    for found, expected in ((np.nan, 1.0), (1.0, np.nan), (np.inf, -np.inf), (np.inf, 1.0)):
        apart = difference(np.array([found]), np.array([expected]), F64)
        assert apart.absolute == apart.ulp == apart.relative == np.inf


def test_integers_and_bools_count_by_ones() -> None:
    apart = difference(np.array([3, 7]), np.array([3, 4]), np.dtype(np.int64))
    assert (apart.absolute, apart.ulp, apart.relative) == (3, 3, 0.75)
    large = np.array([2**62 + 1])
    assert difference(large, large - 1, np.dtype(np.int64)).absolute == 1
    assert difference(np.array([True]), np.array([False]), np.dtype(np.bool_)).absolute == 1


def test_zero_empty_and_other_shapes() -> None:
    zero = np.zeros(2)
    assert difference(zero, zero, F64).relative == 0
    assert difference(np.ones(2), zero, F64).relative == np.inf
    assert difference(np.ones((0, 3)), np.ones((0, 3)), F64).absolute == 0
    assert difference(np.ones(2), np.ones(3), F64).absolute == np.inf


def test_the_tolerance_is_relative_to_the_largest_entry_and_that_of_the_floats() -> None:
    apart = difference(np.array([100.0009, 1e-9]), np.array([100.0, 0.0]), F64)
    assert apart.absolute == pytest.approx(9e-4)
    assert Tolerance().allows(apart, F32)
    assert not Tolerance().allows(apart, F64)
    assert not Tolerance(rtol=8e-6).allows(apart, F32)
    assert Tolerance(atol=2e-4, rtol=8e-6).allows(apart, F32)
    assert Tolerance().bound(F16, 3.0) == pytest.approx(3 * RTOL["float16"])
    assert Tolerance(atol=10, rtol=10).bound(np.dtype(np.int64), 100.0) == 0.0
