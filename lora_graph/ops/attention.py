"""Scaled dot-product attention."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from lora_graph.ir import dims
from lora_graph.ir.dims import Dim
from lora_graph.ir.leaves import constant, size_of
from lora_graph.ir.op import Lowering
from lora_graph.ir.types import TensorType
from lora_graph.ir.value import Value, apply
from lora_graph.ops.cumulative import arange
from lora_graph.ops.fused import Fused
from lora_graph.ops.logic import And
from lora_graph.ops.reduce import softmax
from lora_graph.ops.select import where
from lora_graph.ops.shape import expand, swap_last, unsqueeze


class Stages(NamedTuple):
    """What attention goes through on its way, each ``[batch, heads, queries, keys]``."""

    products: Value
    capped: Value
    biased: Value
    probabilities: Value


@dataclass(frozen=True, eq=False)
class Attention(Fused):
    """y = softmax(c(scale · Q Kᵀ) + bias) V for each head, with c(s) = softcap · tanh(s / softcap) unless it is 0.

    Q is ``[batch, heads, queries, size]``, K and V are ``[batch, kv heads, keys, size]``, each used by as many heads in
    a row as it takes; or the axes are ``[batch, length, heads · size]``, with the numbers of heads as attributes. The
    mask broadcasts to ``[batch, heads, queries, keys]`` and is a bias, or bools that are true where a query sees a key.
    With ``is_causal`` query i sees keys 0 to i. A query that sees nothing gives 0. ``scale`` is 1/√size by default.

    ONNX opset 23 without a cache, which is read as the operands and the mask it stands for; Vaswani et al., 2017;
    Ainslie et al., 2023.
    """

    is_causal: int = 0
    kv_num_heads: int = 0
    q_num_heads: int = 0
    scale: float | None = None
    softcap: float = 0.0

    def infer(self, *operands: TensorType) -> TensorType:
        if not 3 <= len(operands) <= 4:
            raise ValueError(f"{self.name} takes Q, K, V and perhaps a mask, got {len(operands)} operands")
        q = operands[0]
        if not q.is_float or any(operand.dtype != q.dtype for operand in operands[:3]):
            raise TypeError(f"{self.name}: Q, K and V must be floats of one dtype, got {_listed(operands[:3])}")
        for mask in operands[3:]:
            if mask.dtype not in (q.dtype, np.bool_):
                raise TypeError(f"{self.name}: the mask must be bool or {q.dtype.name}, got {mask}")
            if mask.shape[-2:] != (q.shape[-2], operands[1].shape[-2]):  # ONNX Runtime stretches neither axis
                raise ValueError(
                    f"{self.name}: the mask must end in the queries and keys of {_listed(operands[:2])}, got {mask}"
                )
        found = super().infer(*operands)
        assert isinstance(found, TensorType)
        return found

    def decompose(self, *operands: Any) -> Any:
        q, k, v, *mask = operands
        y = self.stages(q, k, mask[0] if mask else None).probabilities @ self._repeated(self.per_head(v, False), q)
        return y if q.rank == 4 else y.transpose(0, 2, 1, 3).reshape(y.shape[0], y.shape[2], y.shape[1] * y.shape[3])

    def stages(self, q: Value, k: Value, mask: Value | None) -> Stages:
        """What the probabilities are computed from."""
        queries = self.per_head(q, True)
        keys = self._repeated(self.per_head(k, False), q)
        size = size_of(queries.shape[-1], q.dtype)
        scale = 1.0 / size.sqrt() if self.scale is None else constant(self.scale, q.dtype)
        scaled = queries * factor(scale, queries)
        products = scaled @ swap_last(keys)
        capped = products
        if self.softcap:
            capped = (products / factor(constant(self.softcap, q.dtype), products)).tanh() * self.softcap
        bias = self._bias(products, mask)
        if bias is None:
            return Stages(products, capped, capped, softmax(capped, -1))
        biased = capped + bias
        if mask is None:
            return Stages(products, capped, biased, softmax(biased, -1))
        # scores of nothing but -inf have no softmax, and would pass NaN back
        blind = bias.max(axis=-1, keepdims=True).equal(-math.inf)
        return Stages(products, capped, biased, where(blind, 0.0, softmax(where(blind, 0.0, biased), -1)))

    def _bias(self, products: Value, mask: Value | None) -> Value | None:
        none, never = constant(0, products.dtype), constant(-math.inf, products.dtype)
        bias: Value | None = where(mask, none, never) if mask is not None and mask.dtype == np.bool_ else mask
        if not self.is_causal:
            return bias
        causal: Value = where(sees(products.shape[-2], products.shape[-1]), none, never)
        return causal if bias is None else bias + causal

    def per_head(self, x: Value, is_query: bool) -> Value:
        """``x`` as ``[batch, heads, length, size]``."""
        heads = self.q_num_heads if is_query else self.kv_num_heads
        if x.rank == 4:
            return x
        if x.rank != 3 or heads < 1:
            raise ValueError(
                f"{self.name}: Q, K and V have four axes, or three and numbers of heads, got {x.type} and {heads}"
            )
        size = dims.exact_quotient(x.shape[2], heads)
        if size is None:
            raise ValueError(f"{self.name}: {heads} heads do not divide the features of {x.type}")
        return x.reshape(x.shape[0], x.shape[1], heads, size).transpose(0, 2, 1, 3)

    def _repeated(self, x: Value, q: Value) -> Value:
        """Every head as often as heads of Q use it."""
        batch, heads, length, size = x.shape
        wanted = self.per_head(q, True).shape[1]
        times = dims.exact_quotient(wanted, heads)
        if times is None or not isinstance(times, int):
            raise ValueError(f"{self.name}: {heads} heads of K and V cannot be shared by {wanted} of Q")
        if times == 1:
            return x
        return expand(unsqueeze(x, 2), (batch, heads, times, length, size)).reshape(batch, wanted, length, size)

    def lower(self, to: Lowering, *operands: str) -> str:
        return to.node(self.name, operands, {name: value for name, value in self.attributes().items() if value})


def sees(queries: Dim, keys: Dim, offset: Value | None = None, left: int = -1, right: int = 0) -> Value:
    """Whether query i sees key j, bools ``[queries, keys]``: from i - ``left`` to i + ``right``, -1 for no bound.

    ``offset`` is added to i.
    """
    i, j = unsqueeze(arange(queries), 1), unsqueeze(arange(keys), 0)
    at = i if offset is None else i + offset
    bounds = [*([j >= at - left] if left >= 0 else []), *([j <= at + right] if right >= 0 else [])]
    if len(bounds) == 2:
        return apply(And(), *bounds)
    return bounds[0]


def factor(scalar: Value, x: Value) -> Value:
    """``scalar`` to scale ``x`` by, as a row for float64: ONNX Runtime rounds scalar factors of products to float32."""
    return expand(scalar, x.shape[-1:]) if x.dtype == np.float64 else scalar


def full_mask(mask: Value, queries: Dim, keys: Dim) -> Value:
    """``mask`` stretched to ``[…, queries, keys]``."""
    return expand(mask, (*mask.shape[:-2], queries, keys))


def attention(
    q: Value,
    k: Value,
    v: Value,
    mask: Value | None = None,
    *,
    is_causal: bool = False,
    q_num_heads: int = 0,
    kv_num_heads: int = 0,
    scale: float | None = None,
    softcap: float = 0.0,
) -> Value:
    """softmax(scale · Q Kᵀ + mask) V for each head; see :class:`Attention`."""
    op = Attention(int(is_causal), kv_num_heads, q_num_heads, None if scale is None else float(scale), float(softcap))
    return apply(op, q, k, v) if mask is None else apply(op, q, k, v, full_mask(mask, q.shape[-2], k.shape[-2]))


def _listed(operands: tuple[TensorType, ...]) -> str:
    return ", ".join(map(str, operands))
