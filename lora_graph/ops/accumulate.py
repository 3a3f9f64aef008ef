"""A matrix product added to what is there already, as BLAS does it in one go."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np

from lora_graph.ir.types import Array, TensorType
from lora_graph.ir.value import Value, apply
from lora_graph.ops.base import Cotangents
from lora_graph.ops.fused import Fused
from lora_graph.ops.linalg import MatMul


class AddMatMul(Fused):
    """y = c + a b for a matrix b ``[k, n]``, a ``[..., k]`` and c ``[..., n]``.

    ONNX has no such op: it is written as MatMul and Add.
    """

    writes_out: ClassVar[bool] = True
    in_place: ClassVar[int] = 1

    def infer(self, *operands: TensorType) -> TensorType:
        c, a, b = operands
        product = MatMul().infer(a, b)
        if b.rank != 2 or a.rank < 2 or c != product:
            raise ValueError(f"AddMatMul: c must be as the product of a and a matrix b, got {c}, {a} and {b}")
        return c

    def decompose(self, *operands: Any) -> Any:
        c, a, b = operands
        return c + a @ b

    def evaluate(self, *operands: Any, out: Any = None) -> Any:
        c, a, b = operands
        y = np.empty(c.shape, c.dtype) if out is None else out
        if not _accumulate(c, a, b, y):
            np.add(c, MatMul().evaluate(a, b), out=y)
        return y

    def pullback(self, cotangent: Value, result: Value, *operands: Value) -> Cotangents:
        _, a, b = operands
        return cotangent, *MatMul().pullback(cotangent, cotangent, a, b)


def _accumulate(c: Array, a: Array, b: Array, y: Array) -> bool:
    """y = c + a b by BLAS, if it has a form for arrays that lie in memory as these do."""
    if c.dtype.char not in "fd" or not y.size or not a.size or not y.flags.c_contiguous:
        return False
    # BLAS counts along columns, and takes row-major arrays for transposes: yᵀ = cᵀ + bᵀ aᵀ
    factors = [_columns(b), _columns(a.reshape(-1, a.shape[-1]) if a.flags.c_contiguous else a)]
    if None in [flip for _, flip in factors]:
        return False
    from scipy.linalg import blas

    if y is not c:
        np.copyto(y, c)
    (left, flip_left), (right, flip_right) = factors
    rows = math.prod(y.shape[:-1])
    gemm = blas.sgemm if c.dtype.char == "f" else blas.dgemm
    gemm(1, left, right, 1, y.reshape(rows, y.shape[-1]).T, flip_left, flip_right, overwrite_c=1)
    return True


def _columns(x: Array) -> tuple[Array, int | None]:
    """xᵀ as a column-major array, and whether that is yet to be transposed; None where it is not to be had."""
    if x.ndim == 2 and x.flags.c_contiguous:
        return x.T, 0
    return x, 1 if x.ndim == 2 and x.flags.f_contiguous else None


def add_matmul(c: Any, a: Any, b: Any) -> Any:
    """c + a b for a matrix b, computed in one go where c has the shape of the product."""
    return apply(AddMatMul(), c, a, b)
