"""Singular values of weights and of their changes, and the ranks that follow from them."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from lora_graph.ir.types import Array

SKETCH = 64
"""Columns of the first sketch of a matrix whose rank may be small."""
SEED = 0


def as_matrix(array: Array) -> Array:
    """A weight as a matrix in float64: a kernel ``[out, in, *K]`` as ``[out, in · K]``, leading axes of 1 left out."""
    wide = array.astype(np.float64)
    while wide.ndim > 2 and wide.shape[0] == 1:
        wide = wide[0]
    return wide.reshape(wide.shape[0] if wide.ndim else 1, -1)


def singular_values(matrix: Array) -> Array:
    """The singular values of a matrix, largest first; those that rounding hides may be left out.

    A large matrix is first multiplied by random columns (Halko et al., 2011): where these span all of it but for
    rounding, its singular values are those of its projection on them, at a fraction of the work.
    """
    width, scale = SKETCH, float(np.linalg.norm(matrix))
    rng = np.random.default_rng(SEED)
    while 4 * width <= min(matrix.shape):
        basis, _ = np.linalg.qr(matrix @ rng.standard_normal((matrix.shape[1], width)))
        projected = basis.T @ matrix
        if np.linalg.norm(matrix - basis @ projected) <= np.finfo(np.float64).eps * scale * math.sqrt(width):
            matrix = projected
            break
        width *= 4
    return np.linalg.svd(matrix, compute_uv=False)


def tolerance(shape: tuple[int, ...], scale: float, dtype: npt.DTypeLike = np.float64) -> float:
    """Singular values of a matrix up to this are rounding: max(m, n) · ε · ``scale``, with the ε of ``dtype``."""
    return max(shape) * float(np.finfo(dtype).eps) * scale


def rank_of(values: Array, limit: float) -> int:
    """How many singular values are above ``limit``."""
    return int(np.count_nonzero(values > limit))


def entropy_rank(values: Array) -> float:
    """exp(-Σ p ln p) with p = σ / Σ σ: how many directions share the matrix evenly (Roy & Vetterli, 2007); 0 for 0."""
    total = float(values.sum())
    if not total:
        return 0.0
    shares = values[values > 0] / total
    return float(np.exp(-np.sum(shares * np.log(shares))))
