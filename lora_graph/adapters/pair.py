"""Low-rank pairs: what LoRA and its relatives train beside one weight."""

from __future__ import annotations

from typing import Any

from lora_graph import checks
from lora_graph.ir.dims import Dim, Shape
from lora_graph.ir.types import Array
from lora_graph.ir.value import Value
from lora_graph.layers.layer import Layer
from lora_graph.layers.trace import Context


class LowRankPair(Layer):
    """y = s · ``product(x, A, B)`` with s = alpha / rank. A negative ``alpha`` means the rank.

    A subclass declares A and B, and says how they are multiplied and where their rank axes are.
    """

    def __init__(self, rank: int, alpha: float, **options: Any):
        self._rank = rank
        self._alpha = checks.scale("alpha", alpha, rank)
        super().__init__(**options)

    def product(self, x: Value, a: Value, b: Value) -> Value:
        """The change for the input ``x``, before it is scaled."""
        raise NotImplementedError(f"{type(self).__name__} must implement product")

    def shapes(self, rank: Dim) -> dict[str, Shape]:
        """The shapes that A and B have at another rank."""
        raise NotImplementedError(f"{type(self).__name__} must implement shapes")

    def cut(self, a: Value, b: Value, rank: int) -> tuple[Value, Value]:
        """A and B with their first ``rank`` components only."""
        raise NotImplementedError(f"{type(self).__name__} must implement cut")

    def masks(self, within: Value) -> tuple[Value, Value]:
        """A flag for each component, in shapes that broadcast to A and B."""
        raise NotImplementedError(f"{type(self).__name__} must implement masks")

    def build(self, ctx: Context, x: Value) -> Value:
        return self.product(x, ctx.param("A"), ctx.param("B")) * self.scaling

    @property
    def rank(self) -> int:
        """The width between A and B."""
        return self._rank

    @property
    def alpha(self) -> float:
        """The numerator of the scale."""
        return self._alpha

    @property
    def scaling(self) -> float:
        """s = alpha / rank."""
        return self._alpha / self._rank

    def get_matrix_a(self) -> Array:
        """A copy of A."""
        return self.get_parameter("A")

    def get_matrix_b(self) -> Array:
        """A copy of B."""
        return self.get_parameter("B")

    def get_diagnostics(self) -> dict[str, str]:
        return {
            **super().get_diagnostics(),
            "rank": str(self.rank),
            "alpha": f"{self.alpha:g}",
            "scaling": f"{self.scaling:g}",
        }


def check_rank(name: str, rank: int, width: int, weight: str) -> None:
    """ValueError naming the argument ``name`` unless 1 ≤ rank < width, for a pair beside what ``weight`` describes."""
    if width < 2:
        raise ValueError(f"{weight} is too small for a low-rank pair: {name} must be less than {width}, got {rank}")
    if not 1 <= rank < width:
        raise ValueError(f"{name} must be at least 1 and less than {width} for {weight}, got {rank}")
