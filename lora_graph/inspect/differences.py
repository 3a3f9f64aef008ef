"""How far apart two arrays are: absolutely, relative to the largest entry, and in units in the last place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from lora_graph.ir.types import Array

FLOATS = {"float16": (10, -14), "bfloat16": (7, -126), "float32": (23, -126), "float64": (52, -1022)}
"""For each float the bits of its fraction and the exponent of its smallest normal number."""

RTOL = {"float16": 1e-2, "bfloat16": 1e-1, "float32": 1e-5, "float64": 1e-12}
"""How far apart results of one computation in these floats may be by default, relative to the largest entry."""


@dataclass(frozen=True)
class Difference:
    """The largest differences of an array from the one that is expected; infinite where shapes differ.

    ``relative`` is ``absolute`` over ``scale``, the largest finite magnitude that is expected.
    """

    absolute: float
    relative: float
    ulp: float
    scale: float


@dataclass(frozen=True)
class Tolerance:
    """A difference is within ``atol + rtol · scale``; without ``rtol`` that of the floats is taken."""

    atol: float = 0.0
    rtol: float | None = None

    def bound(self, dtype: np.dtype[Any], scale: float) -> float:
        """How far entries computed in ``dtype`` may be apart; integers and bools have to be equal."""
        if dtype.name not in FLOATS:
            return 0.0
        return self.atol + (RTOL[dtype.name] if self.rtol is None else self.rtol) * scale

    def allows(self, difference: Difference, dtype: np.dtype[Any]) -> bool:
        return difference.absolute <= self.bound(dtype, difference.scale)


def difference(found: Array, expected: Array, dtype: np.dtype[Any]) -> Difference:
    """How far ``found`` is from ``expected``, with units in the last place of ``dtype``.

    NaN equals NaN and an infinity itself; anything else that is not finite is infinitely far away.
    """
    scale = _largest(expected)
    if found.shape != expected.shape:
        return Difference(np.inf, np.inf, np.inf, scale)
    a, b = _wide(found), _wide(expected)
    with np.errstate(invalid="ignore", over="ignore"):
        apart = np.abs(a - b)
        same = (a == b) | (np.isnan(a) & np.isnan(b))
        apart = np.where(same, 0.0, np.where(np.isnan(apart), np.inf, apart))
        units = np.where(same, 0.0, apart / spacing(np.fmax(np.abs(a), np.abs(b)), dtype))
    absolute = float(apart.max(initial=0.0))
    relative = absolute / scale if scale else (np.inf if absolute else 0.0)
    return Difference(absolute, relative, float(units.max(initial=0.0)), scale)


def spacing(magnitude: Array, dtype: np.dtype[Any]) -> Array:
    """The distance from ``magnitude`` (float64, not negative) to the next larger ``dtype``: a unit in the last place.

    2^(max(⌊log₂ m⌋, e) - p), with p bits of fraction and the smallest normal exponent e; 1 for integers.
    """
    if dtype.name not in FLOATS:
        return np.ones_like(magnitude)
    fraction, smallest = FLOATS[dtype.name]
    _, exponent = np.frexp(np.where(np.isfinite(magnitude), magnitude, 1.0))
    at_zero = magnitude == 0
    unit: Array = np.ldexp(1.0, np.where(at_zero, smallest, np.maximum(exponent - 1, smallest)) - fraction)
    return unit


def _wide(array: Array) -> Array:
    return array.astype(np.longdouble if array.dtype.kind in "iu" else np.float64)


def _largest(array: Array) -> float:
    magnitudes = np.abs(array.astype(np.float64))
    return float(magnitudes[np.isfinite(magnitudes)].max(initial=0.0))
