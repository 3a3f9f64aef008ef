"""Rotary position embedding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lora_graph.ir.dims import exact_quotient
from lora_graph.ir.types import TensorType
from lora_graph.ir.value import Value, apply
from lora_graph.ops.fused import Fused
from lora_graph.ops.gather import Gather
from lora_graph.ops.shape import unsqueeze
from lora_graph.ops.slice import concat


@dataclass(frozen=True, eq=False)
class RotaryEmbedding(Fused):
    """(a, b) → (a cos θ - b sin θ, a sin θ + b cos θ) for each pair (a, b) of features of a head.

    x is ``[batch, heads, length, size]``, or ``[batch, length, num_heads · size]``. Pairs are one feature of the first
    half and one of the second, or with ``interleaved`` neighbours. cos and sin are ``[batch, length, size / 2]``, or
    ``[positions, size / 2]`` with the int64 positions ``[batch, length]`` as a fourth operand. Only the first
    ``rotary_embedding_dim`` features of a head turn, all if it is 0. ONNX opset 23; Su et al., 2021.
    """

    interleaved: int = 0
    num_heads: int = 0
    rotary_embedding_dim: int = 0

    def infer(self, *operands: TensorType) -> TensorType:
        x, cos, sin = operands[:3]
        if not x.is_float or not x.dtype == cos.dtype == sin.dtype:
            raise TypeError(f"{self.name}: x, cos and sin must be floats of one dtype, got {x}, {cos} and {sin}")
        if x.rank not in (3, 4) or (x.rank == 3 and self.num_heads < 1):
            raise ValueError(f"{self.name}: x has four axes, or three and num_heads, got {x} and {self.num_heads}")
        if cos != sin or cos.rank != (3 if len(operands) == 3 else 2):
            raise ValueError(f"{self.name}: cos and sin do not fit {x}: {cos} and {sin}")
        found = super().infer(*operands)
        assert isinstance(found, TensorType)
        return found

    def decompose(self, *operands: Any) -> Any:
        x, cos, sin, *positions = operands
        size = x.shape[-1] if x.rank == 4 else exact_quotient(x.shape[-1], self.num_heads)
        heads = x if x.rank == 4 or size is None else x.reshape(*x.shape[:2], self.num_heads, size)
        across = 1 if x.rank == 4 else 2
        cos, sin = (
            unsqueeze(apply(Gather(0), table, positions[0]) if positions else table, across) for table in (cos, sin)
        )
        turning = self.rotary_embedding_dim or size
        if not isinstance(turning, int) or turning % 2 or turning != 2 * cos.shape[-1]:
            raise ValueError(f"{self.name}: {turning} features of {x.type} cannot turn by {cos.type}")
        turned = self._turned(heads[..., :turning], cos, sin, turning // 2)
        return (turned if turning == size else concat([turned, heads[..., turning:]], -1)).reshape(x.shape)

    def _turned(self, x: Value, cos: Value, sin: Value, half: int) -> Value:
        a, b = (x[..., 0::2], x[..., 1::2]) if self.interleaved else (x[..., :half], x[..., half:])
        real, imaginary = a * cos - b * sin, a * sin + b * cos
        if not self.interleaved:
            return concat([real, imaginary], -1)
        return concat([unsqueeze(real, x.rank), unsqueeze(imaginary, x.rank)], -1).reshape(x.shape)


def rotary_embedding(
    x: Value,
    cos: Value,
    sin: Value,
    positions: Value | None = None,
    *,
    interleaved: bool = False,
    num_heads: int = 0,
    rotary_embedding_dim: int = 0,
) -> Value:
    """Pairs of features turned by the angles of ``cos`` and ``sin``; see :class:`RotaryEmbedding`."""
    op = RotaryEmbedding(int(interleaved), num_heads, rotary_embedding_dim)
    return apply(op, x, cos, sin) if positions is None else apply(op, x, cos, sin, positions)
