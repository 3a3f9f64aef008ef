"""How far the weights of one model moved to become those of the other."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from lora_graph.inspect.diffing.matching import Matching
from lora_graph.inspect.diffing.turned import is_turned
from lora_graph.ir.leaves import Parameter
from lora_graph.ir.types import Array, TensorType, type_of
from lora_graph.ir.value import Value

SKETCH = 64
"""Columns of the random projection that finds a low rank (Halko, Martinsson & Tropp, 2011)."""
LARGEST = 2048
"""Rows or columns, whichever are fewer, of a matrix whose rank is found where it is not low."""


@dataclass(frozen=True)
class WeightChange:
    """Parameter ``before`` became ``after``, W became W + ΔW.

    ``norm`` is ‖ΔW‖ and ``relative`` ‖ΔW‖ / ‖W‖ (Frobenius), ``largest`` is max|ΔW|; all in float64, and NaN where the
    shapes differ. ``rank`` is the numerical rank of ΔW as a matrix, see :func:`rank_of`; None for what is no matrix,
    and where it is too large to be found.
    """

    before: Value
    after: Value
    types: tuple[TensorType, TensorType]
    norm: float = math.nan
    relative: float = math.nan
    largest: float = math.nan
    rank: int | None = None
    full_rank: int | None = None
    """The rank that a matrix of this shape can have at most."""
    turned: bool = False
    """Whether W is compared with the transpose of the new weight, which is used the other way round."""

    @property
    def is_measured(self) -> bool:
        """Whether there is a ΔW."""
        old, new = self.types
        return self.turned or old.shape == new.shape


def weight_changes(known: Matching, rtol: float) -> Iterator[WeightChange]:
    """The matched parameters whose arrays differ by more than ``rtol`` · ‖W‖, or in type, in the order of the graph."""
    for p, q in sorted(known.match.items(), key=lambda pair: known.a.order[pair[0]]):
        names = known.a.name(p), known.b.name(q)
        states = known.a.state, known.b.state
        if isinstance(p.op, Parameter) and all(name in state for name, state in zip(names, states, strict=True)):
            old, new = (np.asarray(state[name]) for name, state in zip(names, states, strict=True))
            change = compared(p, q, old, new)
            if change is not None and is_turned(known, p, q):
                change = compared(p, q, old, new.T, turned=True)
            if change is not None and not (old.dtype == new.dtype and change.relative <= rtol):
                yield change


def compared(p: Value, q: Value, old: Array, new: Array, turned: bool = False) -> WeightChange | None:
    """How ``new`` (the transpose of what is stored, if ``turned``) differs from ``old``; None where it does not.

    NaN is equal to itself.
    """
    types = type_of(old), type_of(new.T if turned else new)
    if old.shape != new.shape:
        return WeightChange(p, q, types)
    if old.dtype == new.dtype and np.array_equal(_bytes(old), _bytes(new)):
        return None
    before, delta = old.astype(np.float64), new.astype(np.float64)
    with np.errstate(invalid="ignore"):
        delta -= before
    norm, size = _norm(delta), _norm(before)
    largest = float(np.abs(delta).max(initial=0.0))
    relative = norm / size if size else (math.inf if norm else 0.0)
    rank, full = None, None
    matrix = as_matrix(delta)
    if matrix is not None and all(kind.is_float for kind in types) and math.isfinite(norm):
        full = min(matrix.shape)
        epsilon = max(_epsilon(old.dtype), _epsilon(new.dtype))
        rank = rank_of(matrix, epsilon, float(np.abs(before).max(initial=0.0)) + largest)
    return WeightChange(p, q, types, norm, relative, largest, rank, full, turned)


def as_matrix(array: Array) -> Array | None:
    """``array`` as a matrix: axes of length 1 dropped, the first one kept and the others joined."""
    squeezed = array.squeeze()
    return squeezed.reshape(len(squeezed), -1) if squeezed.ndim > 1 else None


def rank_of(delta: Array, epsilon: float, scale: float) -> int | None:
    """The number of singular values of ``delta`` above what rounding alone would make.

    ``delta`` ``[m, n]`` is the difference of two matrices of numbers up to ``scale``, stored with a relative precision
    of ``epsilon``. The bound is ε · max(max(m, n) · σ₁, (√m + √n) · scale): the usual one for σ₁ (that of MATLAB's and
    NumPy's ``matrix_rank``), and the norm of a random matrix of the errors of rounding. A rank below 56 is found in a
    random projection to 64 columns; a higher one from all singular values, or None if both sizes are over 2,048.
    """
    rows, columns = delta.shape
    small = delta if rows <= columns else delta.T
    values = None
    if len(small) > 2 * SKETCH:
        values = _projected(small)
        bound = _bound(delta, values[0], epsilon, scale)
        if (values > bound).sum() > SKETCH - 8:
            values = None
            if len(small) > LARGEST:
                return None
    if values is None:
        values = _singular_values(small, epsilon)
    return int((values > _bound(delta, float(values[0]), epsilon, scale)).sum()) if len(values) else 0


def _bound(delta: Array, first: float, epsilon: float, scale: float) -> float:
    rows, columns = delta.shape
    bound: float = epsilon * max(max(rows, columns) * first, (math.sqrt(rows) + math.sqrt(columns)) * scale)
    return bound


def _projected(small: Array) -> Array:
    """The singular values of the part of ``small`` that lies in the range of its products with random columns."""
    drawn = np.random.default_rng(0).normal(size=(small.shape[1], SKETCH))
    basis = np.linalg.qr(small @ drawn)[0]
    found: Array = np.linalg.svd(basis.T @ small, compute_uv=False)
    return found


def _singular_values(small: Array, epsilon: float) -> Array:
    """All of them; for what was stored in float32 or narrower by the square matrix, which is exact enough for that."""
    if epsilon < np.finfo(np.float32).eps:
        found: Array = np.linalg.svd(small, compute_uv=False)
        return found
    squares = np.linalg.eigvalsh(small @ small.T)[::-1]
    return np.sqrt(np.maximum(squares, 0.0))


def _bytes(array: Array) -> Array:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def _norm(array: Array) -> float:
    return float(np.linalg.norm(array.reshape(-1)))


def _epsilon(dtype: np.dtype[Any]) -> float:
    return 2.0**-7 if dtype.name == "bfloat16" else float(np.finfo(dtype).eps)
