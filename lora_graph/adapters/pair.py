"""Low-rank pairs: what LoRA and its relatives train beside one weight."""

from __future__ import annotations

from typing import Any

from lora_graph import checks
from lora_graph.adapters.scale import RANK_SCALINGS, Scaled
from lora_graph.ir.dims import Dim, Shape
from lora_graph.ir.types import Array
from lora_graph.ir.value import Value
from lora_graph.layers.layer import Layer
from lora_graph.layers.trace import Context


class LowRankPair(Scaled, Layer):
    """y = s · ``product(x, A, B)``, plus s · bias where there is one; see :class:`Scaled` for s.

    A subclass declares A and B, and says how they are multiplied and where their rank axes are.
    """

    def __init__(self, rank: int, alpha: float, *, rank_scaling: str = "rank", **options: Any):
        self.rank_scaling = checks.choice("rank_scaling", rank_scaling, RANK_SCALINGS)
        self.set_scale(rank, alpha)
        super().__init__(**options)

    def product(self, x: Value, a: Value, b: Value) -> Value:
        """The change for the input ``x`` that these matrices give, before it is scaled."""
        raise NotImplementedError(f"{type(self).__name__} must implement product")

    def shapes(self, rank: Dim) -> dict[str, Shape]:
        """The shapes that the parameters have at another rank."""
        return {own: self.get_parameter_shape(own) for own in self.own} | self.ranked(rank)

    def ranked(self, rank: Dim) -> dict[str, Shape]:
        """The shapes of the parameters that have rank axes."""
        raise NotImplementedError(f"{type(self).__name__} must implement ranked")

    def matrix(self, a: Value, b: Value) -> Value:
        """ΔW ``[in_features, out_features]`` as it stands at its site, before it is scaled."""
        raise NotImplementedError(f"{type(self).__name__} must implement matrix")

    def cut(self, a: Value, b: Value, rank: int) -> tuple[Value, Value]:
        """A and B with their first ``rank`` components only."""
        raise NotImplementedError(f"{type(self).__name__} must implement cut")

    def masks(self, within: Value) -> tuple[Value, Value]:
        """A flag for each component, in shapes that broadcast to A and B."""
        raise NotImplementedError(f"{type(self).__name__} must implement masks")

    def unscaled(self, ctx: Context, x: Value) -> Value:
        """The change for the input ``x``, before it is scaled, in the context of this layer."""
        return self.product(x, ctx.param("A"), ctx.param("B"))

    def build(self, ctx: Context, x: Value) -> Value:
        y = self.unscaled(ctx, x) * self.scaling
        if "bias" not in self.own:
            return y
        axes = (1,) * (len(self.output_shape) - 1)
        return y + (ctx.param("bias") * self.scaling).reshape((-1, *axes))

    def change(self, ctx: Context) -> Value:
        """s · ΔW ``[in_features, out_features]``, in the context of this layer."""
        return self.matrix(ctx.param("A"), ctx.param("B") * self.scaling)

    def get_matrix_a(self) -> Array:
        """A copy of A."""
        return self.get_parameter("A")

    def get_matrix_b(self) -> Array:
        """A copy of B."""
        return self.get_parameter("B")

    def get_diagnostics(self) -> dict[str, str]:
        return {**super().get_diagnostics(), **self.described_scale()}


def check_width(name: str, rank: int, limit: tuple[int, str], wide: bool) -> None:
    """:func:`check_rank` for a ``limit`` that does not count where the pair may be ``wide``."""
    checks.integer(name, rank)
    if wide:
        checks.integer(name, rank, 1)
    else:
        check_rank(name, rank, *limit)


def check_rank(name: str, rank: int, width: int, weight: str) -> None:
    """ValueError naming the argument ``name`` unless 1 ≤ rank < width, for a pair beside what ``weight`` describes."""
    if width < 2:
        raise ValueError(f"{weight} is too small for a low-rank pair: {name} must be less than {width}, got {rank}")
    if not 1 <= rank < width:
        raise ValueError(f"{name} must be at least 1 and less than {width} for {weight}, got {rank}")
