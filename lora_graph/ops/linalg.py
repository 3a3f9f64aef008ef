"""Matrix products."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from lora_graph.ir import dims
from lora_graph.ir.dims import Dim
from lora_graph.ir.leaves import constant
from lora_graph.ir.op import Lowering, NodeView, Op
from lora_graph.ir.types import TensorType, broadcast, meet
from lora_graph.ir.value import Value, apply
from lora_graph.ops.base import Cotangents, Varying, store, unbroadcast
from lora_graph.ops.fused import Fused
from lora_graph.ops.shape import expand, squeeze, swap_last, unsqueeze


class MatMul(Op):
    """y = a b, as ``numpy.matmul``: stacks of matrices broadcast, vectors get an axis for the product."""

    writes_out: ClassVar[bool] = True

    def infer(self, *operands: TensorType) -> TensorType:
        a, b = operands
        if a.dtype != b.dtype:
            raise TypeError(f"MatMul: operands must share one dtype, got {a} and {b}")
        if a.dtype.kind == "b":
            raise TypeError(f"MatMul is not defined for bool, got {a} and {b}")
        if not a.rank or not b.rank:
            raise ValueError(f"MatMul: operands must have at least one axis, got {a} and {b}")
        inner, stack, other = b.shape[0 if b.rank == 1 else -2], a.shape[:-2], b.shape[:-2]
        if a.shape[-1] != inner or stack != other:  # spelling types out costs more than the rest
            what = f"MatMul of {a} and {b}"
            meet(a.shape[-1], inner, what)
            stack = broadcast(stack, other, what)
        return a.with_shape((*stack, *a.shape[-2:-1], *(b.shape[-1:] if b.rank > 1 else ())))

    def evaluate(self, *operands: Any, out: Any = None) -> Any:
        a, b = operands
        if a.dtype == np.float16:
            return store(np.matmul(a.astype(np.float32), b.astype(np.float32)).astype(np.float16), out)
        if a.ndim > 2 and b.ndim == 2 and a.flags.c_contiguous and (out is None or out.flags.c_contiguous):
            # one large product instead of a stack of small ones
            rows = math.prod(a.shape[:-1])
            flat = None if out is None else out.reshape(rows, b.shape[-1])
            return np.matmul(a.reshape(rows, a.shape[-1]), b, out=flat).reshape(*a.shape[:-1], b.shape[-1])
        return np.asarray(np.matmul(a, b, out=out))

    def pullback(self, cotangent: Value, result: Value, *operands: Value) -> Cotangents:
        a, b = operands
        if a.rank == 1 or b.rank == 1:
            row, column = unsqueeze(a, 0) if a.rank == 1 else a, unsqueeze(b, 1) if b.rank == 1 else b
            if a.rank == 1:
                cotangent = unsqueeze(cotangent, result.rank - (b.rank > 1))
            if b.rank == 1:
                cotangent = unsqueeze(cotangent, cotangent.rank)
            of_row, of_column = self.pullback(cotangent, cotangent, row, column)
            assert of_row is not None
            assert of_column is not None
            return (squeeze(of_row, 0) if a.rank == 1 else of_row, squeeze(of_column, 1) if b.rank == 1 else of_column)
        of_a = unbroadcast(cotangent @ swap_last(b), a.shape)
        if b.rank == 2:
            rows = dims.product(a.shape[:-1])
            return of_a, a.reshape(rows, a.shape[-1]).T @ cotangent.reshape(rows, cotangent.shape[-1])
        return of_a, unbroadcast(swap_last(a) @ cotangent, b.shape)

    def is_linear(self, varying: Varying, operands: tuple[TensorType, ...], lead: int) -> bool:
        a, b = operands
        if all(varying):
            return False
        if varying[0]:
            return b.rank == 2 and a.rank > lead
        return a.rank == 2 and b.rank >= lead + 2

    def flops(self, result: Any, *operands: TensorType) -> Any:
        return result.size * operands[0].shape[-1] * 2


@dataclass(frozen=True, eq=False)
class Gemm(Fused):
    """y = α a' b' + β c with a' = aᵀ if ``transA`` (b' alike) and c broadcast to the product (opset 13)."""

    alpha: float = 1.0
    beta: float = 1.0
    transA: int = 0  # noqa: N815
    transB: int = 0  # noqa: N815
    writes_out: ClassVar[bool] = True

    def infer(self, *operands: TensorType) -> TensorType:
        a, b = (
            operand.with_shape(operand.shape[::-1] if flip else operand.shape)
            for operand, flip in self._flips(operands)
        )
        if a.rank != 2 or b.rank != 2:
            raise ValueError(f"Gemm: a and b must be matrices, got {operands[0]} and {operands[1]}")
        if not a.is_float and (self.alpha != 1.0 or self.beta != 1.0):
            raise TypeError(f"Gemm: alpha and beta scale floats only, got {operands[0]}")
        product = MatMul().infer(a, b)
        if len(operands) > 2:
            c = operands[2]
            if c.dtype != product.dtype:
                raise TypeError(f"Gemm: operands must share one dtype, got {product} and {c}")
            if broadcast(product.shape, c.shape, self.name) != product.shape:
                raise ValueError(f"Gemm: {c} does not broadcast to {product}")
        return product

    def _flips(self, operands: tuple[Any, ...]) -> list[tuple[Any, int]]:
        return list(zip(operands[:2], (self.transA, self.transB), strict=True))

    def decompose(self, *operands: Any) -> Any:
        a, b = (operand.T if flip else operand for operand, flip in self._flips(operands))
        product = a @ b if self.alpha == 1.0 else a @ b * self.alpha
        if len(operands) < 3:
            return product
        return product + (operands[2] if self.beta == 1.0 else operands[2] * self.beta)

    def evaluate(self, *operands: Any, out: Any = None) -> Any:
        a, b = (operand.T if flip else operand for operand, flip in self._flips(operands))
        y = MatMul().evaluate(a, b, out=out)
        if self.alpha != 1.0:
            y *= y.dtype.type(self.alpha)
        if len(operands) > 2:
            y += operands[2] if self.beta == 1.0 else operands[2] * y.dtype.type(self.beta)
        return y


@dataclass(frozen=True, eq=False)
class EyeLike(Op):
    """y[i, j] = 1 where i = j, else 0, in the shape of the operand and as ``dtype``."""

    dtype: np.dtype[Any]

    def infer(self, *operands: TensorType) -> TensorType:
        (like,) = operands
        if like.rank != 2:
            raise ValueError(f"EyeLike: the operand must be a matrix, got {like}")
        return like.with_dtype(self.dtype)

    def evaluate(self, *operands: Any, out: Any = None) -> Any:
        return store(np.eye(*operands[0].shape, dtype=self.dtype), out)

    def pullback(self, cotangent: Value, result: Value, *operands: Value) -> Cotangents:
        return (None,)

    @classmethod
    def read(cls, node: NodeView) -> Value:
        (like,) = node.operands
        assert like is not None
        return apply(cls(node.dtype("dtype") if "dtype" in node.attributes else like.dtype), like)


@dataclass(frozen=True, eq=False)
class Trilu(Op):
    """y[i, j] = x[i, j] where j - i ≥ k, else 0, of the last two axes; j - i ≤ k unless ``upper`` (opset 14)."""

    upper: int = 1
    k: Dim = 0

    def infer(self, *operands: TensorType) -> TensorType:
        (x,) = operands
        if x.rank < 2:
            raise ValueError(f"Trilu: the operand must have at least two axes, got {x}")
        return x

    def evaluate(self, *operands: Any, out: Any = None) -> Any:
        return store((np.triu if self.upper else np.tril)(operands[0], self.k), out)  # type: ignore[arg-type]

    def pullback(self, cotangent: Value, result: Value, *operands: Value) -> Cotangents:
        return (apply(self, cotangent),)

    def is_linear(self, varying: Varying, operands: tuple[TensorType, ...], lead: int) -> bool:
        return operands[0].rank >= lead + 2

    def lower(self, to: Lowering, *operands: str) -> str:
        k = to.constant(self.k, np.int64) if isinstance(self.k, int) else to.dimension(self.k)
        return to.node("Trilu", [*operands, k], {"upper": self.upper})

    @classmethod
    def read(cls, node: NodeView) -> Value:
        x, *given = node.operands
        k = node.static_shape(1)
        if k is None and any(given):
            raise ValueError("Trilu: k has to be known or computed from dimensions")
        return apply(cls(int(node.attributes.get("upper", 1)), k[0] if k else 0), x)


def matmul(a: Any, b: Any) -> Any:
    """The matrix product a b; leading axes broadcast."""
    return apply(MatMul(), a, b)


def gemm(a: Any, b: Any, c: Any = None, alpha: float = 1.0, beta: float = 1.0, transA: int = 0, transB: int = 0) -> Any:
    """α a' b' + β c with a' = aᵀ if ``transA`` (b' alike)."""
    op = Gemm(float(alpha), float(beta), int(transA), int(transB))
    return apply(op, a, b) if c is None else apply(op, a, b, c)


def trilu(x: Any, k: Dim = 0, upper: bool = True) -> Any:
    """``x`` with zeros below diagonal ``k`` of its last two axes, or unless ``upper`` above it."""
    return apply(Trilu(int(upper), k), x)


def eye_like(x: Any, dtype: npt.DTypeLike) -> Any:
    """The identity matrix in the shape of the matrix ``x``."""
    return apply(EyeLike(np.dtype(dtype)), x)


def eye(size: Dim, dtype: npt.DTypeLike) -> Value:
    """The identity matrix ``[size, size]``."""
    return apply(EyeLike(np.dtype(dtype)), expand(constant(0, dtype), (size, size)))
