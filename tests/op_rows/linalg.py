"""Rows of matrix products."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from tests.op_cases import Case, case, i, x
from tests.op_rows.common import op


def linalg() -> Iterator[Case]:
    for left, right, indices in (
        ("batch 3", "3 2", "ij,jk->ik"),
        ("3", "3 2", "j,jk->k"),
        ("batch 3", "3", "ij,j->i"),
        ("3", "3", "j,j->"),
        ("batch 2 3", "3 2", "bij,jk->bik"),
        ("2 2 batch 3", "3 2", "abij,jk->abik"),
        ("batch 2 3", "batch 3 2", "bij,bjk->bik"),
        ("2 3", "batch 3 2", "ij,bjk->bik"),
        ("3", "batch 3 2", "j,bjk->bk"),
        ("batch 2 3", "3", "bij,j->bi"),
        ("batch 0", "0 2", "ij,jk->ik"),
        ("batch 2 0", "0 2", "bij,jk->bik"),
        ("batch time", "time 2", "ij,jk->ik"),
    ):
        yield case(op("MatMul"), x(left), x(right), expected=lambda a, b, s=indices: np.einsum(s, a, b))
    yield case(op("MatMul"), x("batch 1 2 3"), x("2 3 2"), expected=lambda a, b: np.einsum("aoij,bjk->abik", a, b))
    yield case(op("MatMul"), i("batch 3", -3, 4), i("3 2", -3, 4), expected=lambda a, b: np.einsum("ij,jk->ik", a, b))
    for rows, inner in (("batch", "3"), ("batch 2", "3"), ("2", "batch"), ("batch 0", "3"), ("batch 2", "0")):
        operands = x(f"{rows} 2"), x(f"{rows} {inner}"), x(f"{inner} 2")
        yield case(op("AddMatMul"), *operands, expected=lambda c, a, b: c + np.einsum("...j,jk->...k", a, b))
    for alpha, beta, left, right in ((1.0, 1.0, 0, 0), (0.5, 2.0, 1, 0), (1.0, 0.25, 0, 1), (-1.5, 1.0, 1, 1)):

        def gemm(a: Any, w: Any, c: Any = 0.0, alpha: float = alpha, beta: float = beta, s: Any = (left, right)) -> Any:
            indices = ("ji" if s[0] else "ij") + "," + ("kj" if s[1] else "jk") + "->ik"
            return alpha * np.einsum(indices, a, w) + beta * c

        a, w = x("3 batch" if left else "batch 3"), x("2 3" if right else "3 2")
        instance = op("Gemm", alpha, beta, left, right)
        yield case(instance, a, w, expected=gemm)
        for addend in ("2", "batch 2", "batch 1", ""):
            yield case(instance, a, w, x(addend), expected=gemm)
    for dtype, shape in (("float32", "3 3"), ("float64", "batch 3"), ("int64", "3 2")):
        yield case(
            op("EyeLike", np.dtype(dtype)),
            x(shape),
            expected=lambda a, t=dtype: np.asarray(
                [[r == c for c in range(a.shape[1])] for r in range(len(a))], t
            ).reshape(a.shape),
            differentiable=False,
        )
