"""A low-rank pair beside a convolution: A convolves as the base does, B mixes the channels of what comes out."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from lora_graph import checks
from lora_graph.adapters.pair import LowRankPair, check_width
from lora_graph.ir.dims import Dim, Shape
from lora_graph.ir.types import tensor
from lora_graph.ir.value import Value, apply
from lora_graph.layers.samples import image_shape
from lora_graph.ops.convolution import Conv
from lora_graph.ops.shape import expand, unsqueeze, with_one_batch_axis
from lora_graph.rewrite.convolution import composed


@dataclass(frozen=True)
class Geometry:
    """A convolution without its numbers: the op, and the shape ``[out, in/g, *kernel]`` of its weight."""

    op: Conv
    weight: tuple[int, ...]

    @property
    def in_channels(self) -> int:
        return self.weight[1] * self.op.group

    @property
    def out_channels(self) -> int:
        return self.weight[0]

    @property
    def kernel(self) -> tuple[int, ...]:
        return self.weight[2:]

    @property
    def window(self) -> int:
        """How many numbers each output channel is computed from."""
        return math.prod(self.weight[1:])

    @property
    def pointwise(self) -> Conv:
        """A convolution by 1 × 1 windows, in as many groups."""
        axes = len(self.kernel)
        return Conv((1,) * axes, (0,) * 2 * axes, (1,) * axes, self.op.group)

    def images(self) -> tuple[Shape, Shape]:
        """The shapes of an image before and after, in terms of the names of its sizes."""
        before = tensor(np.float32, (1, *image_shape(self.in_channels, len(self.kernel))))
        after = self.op.infer(before, tensor(np.float32, self.weight))
        return before.shape[1:], after.shape[1:]

    def matrix(self, kernel: Value) -> Value:
        """A kernel as the matrix ``[window, out]`` that windows of the image are multiplied by."""
        return kernel.reshape((self.out_channels, self.window)).T

    @property
    def limit(self) -> tuple[int, str]:
        """The number that a rank must stay below, and what it limits: a pair is not to hold more than the weight."""
        widest = min(self.window, self.out_channels // self.op.group)
        return widest + 1, f"a convolution with the weight {list(self.weight)} in {self.op.group} groups"


class LoRAConvolution(LowRankPair):
    """y = s · (x ∗ A) ∗ B in the geometry of a convolution with g groups; see :class:`LowRankPair` for s.

    A ``[g·rank, in/g, *kernel]`` has the base's strides, pads and dilations, B ``[out, rank, 1, …]`` is pointwise; both
    have g groups. A ~ N(0, 1/rank), B = 0, so the layer starts as zero. With ``bias`` there is one of B as well.

    With ``dense``, as PEFT has it, A ``[rank, in, *kernel]`` sees all channels, and B ``[out, rank/g, 1, …]`` has the
    groups: no kernel in g groups is the same, so where g > 1 such a pair cannot be merged.

    Raises ValueError unless 1 ≤ rank ≤ min(in/g · ∏ kernel, out/g), the upper bound not holding if ``wide``; and with
    ``dense`` for a rank that g does not divide.
    """

    def __init__(
        self,
        geometry: Geometry,
        rank: int,
        alpha: float = -1,
        *,
        wide: bool = False,
        dense: bool = False,
        bias: bool = False,
        rank_scaling: str = "rank",
        dtype: npt.DTypeLike = np.float32,
        rng: checks.Seed = None,
    ):
        op, (out, inner, *kernel) = geometry.op, geometry.weight
        check_width("rank", rank, geometry.limit, wide)
        rows, columns = op.group * rank, rank
        if dense:
            if rank % op.group:
                raise ValueError(f"rank must be a multiple of the {op.group} groups that B has, got {rank}")
            op, rows, columns, inner = replace(op, group=1), rank, rank // op.group, geometry.in_channels
        source, result = geometry.images()
        super().__init__(
            rank,
            alpha,
            rank_scaling=rank_scaling,
            input_shape=source,
            output_shape=result,
            dtype=dtype,
            rng=rng,
        )
        self.geometry = geometry
        self.first = op
        self.add_parameter("A", self.rng.normal(0.0, math.sqrt(1 / rank), (rows, inner, *kernel)))
        self.add_parameter("B", np.zeros((out, columns, *(1,) * len(kernel))))
        if bias:
            self.add_parameter("bias", np.zeros(out))

    def product(self, x: Value, a: Value, b: Value) -> Value:
        def convolved(images: Value) -> Value:
            return apply(self.geometry.pointwise, apply(self.first, images, a), b)

        return with_one_batch_axis(x, len(self.input_shape), convolved)

    @property
    def is_dense(self) -> bool:
        """Whether A sees all channels of a convolution in groups."""
        return self.first != self.geometry.op

    def matrix(self, a: Value, b: Value) -> Value:
        if self.is_dense:
            raise ValueError(f"{self.layer_name}: a dense pair is no change of a weight in groups")
        return self.geometry.matrix(composed(a, b, self.first.group))

    def ranked(self, rank: Dim) -> dict[str, Shape]:
        out, inner, *kernel = self.geometry.weight
        groups, ones = self.geometry.op.group, (1,) * len(kernel)
        if self.is_dense:
            return {"A": (rank * groups, inner * groups, *kernel), "B": (out, rank, *ones)}
        return {"A": (rank * groups, inner, *kernel), "B": (out, rank, *ones)}

    def cut(self, a: Value, b: Value, rank: int) -> tuple[Value, Value]:
        groups, rest = self.geometry.op.group, a.shape[1:]
        first = a.reshape((groups, self.rank, *rest))[:, :rank].reshape((groups * rank, *rest))
        return first, b[:, :rank]

    def masks(self, within: Value) -> tuple[Value, Value]:
        groups, axes = self.geometry.op.group, tuple(range(1, len(self.geometry.weight)))
        rows = expand(unsqueeze(within, 0), (groups, self.rank)).reshape((groups * self.rank,))
        return unsqueeze(rows, axes), unsqueeze(within, (0, *axes[1:]))
