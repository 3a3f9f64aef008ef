"""The error function in single precision, against SciPy's in double precision."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import erf

from lora_graph.ops.error_function import CHUNK, erf_kernel


def test_single_precision_is_within_its_bound() -> None:
    x = np.concatenate([np.linspace(-6, 6, 400_001), np.logspace(-30, 1, 20_001)]).astype(np.float32)
    wanted, found = erf(x.astype(np.float64)), erf_kernel(x)
    assert found.dtype == np.float32
    assert np.all(np.abs(found - wanted) <= 4e-7 * np.abs(wanted))
    assert np.abs(found).max() == 1


def test_special_values() -> None:
    x = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1e-40], np.float32)
    found = erf_kernel(x)
    np.testing.assert_array_equal(found[:4], [0, 0, 1, -1])
    assert list(np.signbit(found[:2])) == [False, True]
    assert np.isnan(found[4])
    assert found[5] == pytest.approx(1.128379e-40, rel=1e-4)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("shape", [(), (0, 3), (5,), (3, CHUNK // 2 + 7)])
def test_any_shape_and_layout(dtype: str, shape: tuple[int, ...], rng: np.random.Generator) -> None:
    x = np.asarray(rng.standard_normal(shape), dtype)
    tolerance = {"float16": 1e-3, "float32": 4e-7, "float64": 1e-15}[dtype]
    wanted = erf(x.astype(np.float64))
    out = np.full(shape, np.nan, dtype).T
    for found in (erf_kernel(x), erf_kernel(x.T, out).T):
        assert found.shape == shape
        assert found.dtype == x.dtype
        np.testing.assert_allclose(found, wanted, rtol=tolerance)
    np.testing.assert_allclose(out.T, wanted, rtol=tolerance)
