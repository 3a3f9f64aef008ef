"""A low-rank pair beside a convolution with a small kernel between its halves (LyCORIS, arXiv:2309.14859)."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from lora_graph import checks
from lora_graph.adapters.convolution import Geometry
from lora_graph.adapters.pair import LowRankPair, check_width
from lora_graph.ir.dims import Dim, Shape
from lora_graph.ir.value import Value, apply
from lora_graph.layers.trace import Context
from lora_graph.ops.shape import with_one_batch_axis
from lora_graph.rewrite.convolution import composed, preceded


class TuckerConvolution(LowRankPair):
    """y = s · ((x ∗ A) ∗ mid) ∗ B in the geometry of a convolution with g groups; see :class:`LowRankPair` for s.

    A ``[g·rank, in/g, 1, …]`` and B ``[out, rank, 1, …]`` are pointwise; mid ``[g·rank, rank, *kernel]`` has the base's
    strides, pads and dilations; all have g groups. A ~ N(0, 1/rank), mid ~ N(0, 1/(rank · ∏ kernel)), B = 0, so the
    layer starts as zero. With ``bias`` there is one of B as well.

    Raises ValueError unless 1 ≤ rank ≤ min(in/g · ∏ kernel, out/g), the upper bound not holding if ``wide``.
    """

    def __init__(
        self,
        geometry: Geometry,
        rank: int,
        alpha: float = -1,
        *,
        wide: bool = False,
        bias: bool = False,
        rank_scaling: str = "rank",
        dtype: npt.DTypeLike = np.float32,
        rng: checks.Seed = None,
    ):
        check_width("rank", rank, geometry.limit, wide)
        source, result = geometry.images()
        super().__init__(
            rank, alpha, rank_scaling=rank_scaling, input_shape=source, output_shape=result, dtype=dtype, rng=rng
        )
        self.geometry = geometry
        groups, (out, inner, *kernel) = geometry.op.group, geometry.weight
        ones, window = (1,) * len(kernel), rank * math.prod(kernel)
        self.add_parameter("A", self.rng.normal(0.0, math.sqrt(1 / rank), (groups * rank, inner, *ones)))
        self.add_parameter("mid", self.rng.normal(0.0, math.sqrt(1 / window), (groups * rank, rank, *kernel)))
        self.add_parameter("B", np.zeros((out, rank, *ones)))
        if bias:
            self.add_parameter("bias", np.zeros(out))

    def ranked(self, rank: Dim) -> dict[str, Shape]:
        groups, (out, inner, *kernel) = self.geometry.op.group, self.geometry.weight
        ones = (1,) * len(kernel)
        a, b = (rank * groups, inner, *ones), (out, rank, *ones)
        return {"A": a, "mid": (rank * groups, rank, *kernel), "B": b}

    def unscaled(self, ctx: Context, x: Value) -> Value:
        def convolved(images: Value) -> Value:
            inner: Value = apply(self.geometry.op, apply(self.geometry.pointwise, images, ctx.param("A")), mid)
            return apply(self.geometry.pointwise, inner, ctx.param("B"))

        mid = ctx.param("mid")
        return with_one_batch_axis(x, len(self.input_shape), convolved)

    def change(self, ctx: Context) -> Value:
        groups = self.geometry.op.group
        inner = preceded(ctx.param("mid"), ctx.param("A"), groups)
        return self.geometry.matrix(composed(inner, ctx.param("B") * self.scaling, groups))
