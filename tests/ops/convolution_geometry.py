"""Convolutions drawn at random: their attributes, their operands and the formula for what comes out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from lora_graph import ops
from lora_graph.ir import Op, Value
from lora_graph.ops.convolution import Conv, ConvTranspose
from tests.op_rows.convolution_formulas import convolved, transposed

Ints = tuple[int, ...]


@dataclass(frozen=True)
class Geometry:
    """A convolution, or with ``more`` (output_padding) a transposed one; printed where a test fails."""

    seed: int
    x: Ints
    w: Ints
    bias: Ints | None
    strides: Ints
    pads: Ints
    dilations: Ints
    group: int
    more: Ints | None

    @property
    def op(self) -> Op:
        if self.more is not None:
            return ConvTranspose(self.strides, self.pads, self.dilations, self.more, self.group)
        return Conv(self.strides, self.pads, self.dilations, self.group)

    def formula(self, *arrays: Any) -> Any:
        wide = [array.astype(np.float64) for array in arrays]
        if self.more is not None:
            return transposed(self.strides, self.pads, self.dilations, self.more, self.group)(*wide)
        return convolved(self.strides, self.pads, self.dilations, self.group)(*wide)

    def feeds(self, dtype: str) -> dict[str, Any]:
        rng = np.random.default_rng(self.seed)
        shapes = {"x": self.x, "w": self.w} | ({} if self.bias is None else {"b": self.bias})
        return {name: rng.standard_normal(shape).astype(dtype) for name, shape in shapes.items()}

    def leaves(self, dtype: str, *, named: bool = False) -> list[Value]:
        """The operands as inputs; ``named`` gives the batch and the spatial axes of x names for sizes."""
        x: Any = ("batch", self.x[1], *(f"size{i}" for i in range(len(self.strides)))) if named else self.x
        shapes = {name: array.shape for name, array in self.feeds(dtype).items()} | {"x": x}
        return [ops.input(name, dtype, shape) for name, shape in shapes.items()]


def draw(seed: int, *, transpose: bool) -> Geometry:
    """A possible geometry over 1 to 3 axes."""
    rng = np.random.default_rng((seed, transpose))

    def ints(low: int, high: int, count: int) -> Ints:
        return tuple(map(int, rng.integers(low, high, count)))

    axes, group, batch = (int(rng.integers(1, 4)) for _ in range(3))
    channels, outputs = (n * group for n in ints(1, 4, 2))
    kernel, strides, dilations, pads = ints(1, 4, axes), ints(1, 4, axes), ints(1, 3, axes), ints(0, 3, 2 * axes)
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    padding = [before + after for before, after in zip(pads[:axes], pads[axes:], strict=True)]
    if transpose:  # as many windows as it takes for something to be left once the pads are cut off
        least = [max(1, 1 + -((r - p - 1) // s)) for r, p, s in zip(reach, padding, strides, strict=True)]
    else:
        least = [max(1, r - p) for r, p in zip(reach, padding, strict=True)]
    size = [n + extra for n, extra in zip(least, ints(0, 5, axes), strict=True)]
    pair = (channels, outputs // group) if transpose else (outputs, channels // group)
    return Geometry(
        seed,
        (batch, channels, *size),
        (*pair, *kernel),
        (outputs,) if rng.integers(2) else None,
        strides,
        pads,
        dilations,
        group,
        tuple(int(rng.integers(0, s)) for s in strides) if transpose else None,
    )
