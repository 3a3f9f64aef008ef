"""The error function of arrays, in single precision several times as fast as SciPy's."""

from __future__ import annotations

import numpy as np

from lora_graph.ir.types import Array
from lora_graph.ops.base import store

NUMERATOR = np.array([2.2905065e-4, 3.4082910e-3, 5.0955695e-2, 0.18520832, 1.1283791], np.float32)
DENOMINATOR = np.array(
    [-1.1791603e-7, 2.3547966e-5, 1.0179626e-3, 1.4070470e-2, 0.11098505, 0.49746925, 1.0], np.float32
)
"""erf x ≈ x P(x²) / Q(x²), highest powers first: the minimax approximation of the Eigen library."""
SATURATED = np.array(3.8325069, np.float32)
"""From here on erf x rounds to 1 in float32."""
CHUNK = 32768
"""Elements computed at a time: the temporaries stay in the cache."""


def erf_kernel(x: Array, out: Array | None = None) -> Array:
    """2/√π ∫₀ˣ e^(-t²) dt for each element; in float32 and float16 within 4e-7 of it, relatively, and never above 1."""
    if x.dtype == np.float64:
        from scipy.special import erf

        return np.asarray(erf(x, out=out))
    if x.dtype == np.float16:
        return store(erf_kernel(x.astype(np.float32)).astype(np.float16), out)
    result = np.empty(x.shape, x.dtype) if out is None or not out.flags.c_contiguous else out
    given, found = np.ravel(x), result.reshape(-1)
    work = np.empty((3, min(CHUNK, given.size)), x.dtype)
    for start in range(0, given.size, CHUNK):
        part = given[start : start + CHUNK]
        bounded, square, below = work[:, : part.size]
        _rational(part, bounded, square, below, found[start : start + CHUNK])
    return store(result, out) if out is not None and result is not out else result


def _rational(x: Array, bounded: Array, square: Array, below: Array, out: Array) -> None:
    np.clip(x, -SATURATED, SATURATED, out=bounded)
    np.multiply(bounded, bounded, out=square)
    _horner(square, NUMERATOR, out)
    _horner(square, DENOMINATOR, below)
    np.multiply(out, bounded, out=out)
    np.divide(out, below, out=out)
    np.clip(out, -1, 1, out=out)


def _horner(x: Array, coefficients: Array, out: Array) -> None:
    first, second, *rest = (coefficients[i, ...] for i in range(len(coefficients)))
    np.multiply(x, first, out=out)
    np.add(out, second, out=out)
    for coefficient in rest:
        np.multiply(out, x, out=out)
        np.add(out, coefficient, out=out)
