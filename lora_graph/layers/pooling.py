"""Pooling and flattening layers, for images ``[channels, *spatial]``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from lora_graph import checks
from lora_graph.ir.dims import product
from lora_graph.ir.types import tensor
from lora_graph.ir.value import Value, apply
from lora_graph.layers.layer import Layer
from lora_graph.layers.samples import image_shape
from lora_graph.layers.trace import Context
from lora_graph.ops.pool_windows import Pool
from lora_graph.ops.pooling import AveragePool, MaxPool, global_average_pool
from lora_graph.ops.shape import flatten, with_one_batch_axis
from lora_graph.ops.windows import extent, per_axis

Sizes = int | Sequence[int]
"""One int for each spatial axis, or one for all."""


def kernel_of(kernel_size: Sizes) -> tuple[int, ...]:
    """The sizes of a kernel, an int being that of a square one; ValueError for other than 1 to 3 axes."""
    given = kernel_size.tolist() if isinstance(kernel_size, np.ndarray) else kernel_size
    axes = len(given) if isinstance(given, Sequence) else 2
    if not 1 <= axes <= 3:
        raise ValueError(f"kernel_size must have 1 to 3 axes, got {kernel_size!r}")
    return per_axis("kernel_size", given, axes)


class PoolLayer(Layer):
    """One number for each window of each channel, computed by the op ``pool``."""

    def __init__(self, pool: Pool, *, dtype: npt.DTypeLike, layer_name: str | None):
        self.pool = pool
        sample = image_shape("channels", len(pool.kernel_shape))
        pooled = pool.infer(tensor(np.float32, ("batch", *sample)))
        super().__init__(input_shape=sample, output_shape=pooled.shape[1:], dtype=dtype, layer_name=layer_name)

    def build(self, ctx: Context, x: Value) -> Value:
        return with_one_batch_axis(x, len(self.input_shape), lambda images: apply(self.pool, images))


class MaxPoolLayer(PoolLayer):
    """y = the maximum of each window; padding is never the maximum. ``kernel_size=(2,)`` is a pool of one axis.

    ``stride`` is ``kernel_size`` by default. With ``ceil_mode`` a last window may reach beyond the padding.
    """

    def __init__(
        self,
        kernel_size: Sizes,
        stride: Sizes | None = None,
        padding: Sizes = 0,
        dilation: Sizes = 1,
        *,
        ceil_mode: bool = False,
        dtype: npt.DTypeLike = np.float32,
        layer_name: str | None = None,
    ):
        fields = _windows(kernel_size, stride, padding, dilation, ceil_mode)
        super().__init__(MaxPool(**fields), dtype=dtype, layer_name=layer_name)


class AveragePoolLayer(PoolLayer):
    """y = the mean of each window, in which padding counts only with ``count_include_pad``.

    Other arguments are those of :class:`MaxPoolLayer`.
    """

    def __init__(
        self,
        kernel_size: Sizes,
        stride: Sizes | None = None,
        padding: Sizes = 0,
        dilation: Sizes = 1,
        *,
        ceil_mode: bool = False,
        count_include_pad: bool = False,
        dtype: npt.DTypeLike = np.float32,
        layer_name: str | None = None,
    ):
        included = int(checks.flag("count_include_pad", count_include_pad))
        fields = _windows(kernel_size, stride, padding, dilation, ceil_mode)
        super().__init__(AveragePool(**fields, count_include_pad=included), dtype=dtype, layer_name=layer_name)


class GlobalAveragePoolLayer(Layer):
    """y = the mean of each channel: ``[channels, *spatial]`` becomes ``[channels]``, which a dense layer takes."""

    def __init__(self, spatial_axes: int = 2, *, dtype: npt.DTypeLike = np.float32, layer_name: str | None = None):
        sample = image_shape("channels", checks.integer("spatial_axes", spatial_axes, 1, 3))
        super().__init__(input_shape=sample, output_shape=sample[:1], dtype=dtype, layer_name=layer_name)

    def build(self, ctx: Context, x: Value) -> Value:
        pooled = with_one_batch_axis(x, len(self.input_shape), global_average_pool)
        return pooled.reshape(pooled.shape[: x.rank - len(self.input_shape) + 1])


class FlattenLayer(Layer):
    """The channels and pixels of an image as one feature axis, row-major: ``[channels * height * width]``."""

    def __init__(self, spatial_axes: int = 2, *, dtype: npt.DTypeLike = np.float32, layer_name: str | None = None):
        sample = image_shape("channels", checks.integer("spatial_axes", spatial_axes, 1, 3))
        super().__init__(input_shape=sample, output_shape=(product(sample),), dtype=dtype, layer_name=layer_name)

    def build(self, ctx: Context, x: Value) -> Value:
        return with_one_batch_axis(x, len(self.input_shape), flatten)


def _windows(
    kernel_size: Sizes, stride: Sizes | None, padding: Sizes, dilation: Sizes, ceil_mode: bool
) -> dict[str, Any]:
    """The fields of a pool; ValueError naming the argument that does not fit."""
    kernel = kernel_of(kernel_size)
    dilations, widths = per_axis("dilation", dilation, len(kernel)), per_axis("padding", padding, len(kernel), 0)
    for size, step, width in zip(kernel, dilations, widths, strict=True):
        reach: Any = extent(size, step)
        if width >= reach:
            raise ValueError(f"padding must be smaller than the window, which reaches over {reach}, got {padding}")
    return {
        "kernel_shape": kernel,
        "strides": kernel if stride is None else per_axis("stride", stride, len(kernel)),
        "pads": widths * 2,
        "dilations": dilations,
        "ceil_mode": int(checks.flag("ceil_mode", ceil_mode)),
    }
