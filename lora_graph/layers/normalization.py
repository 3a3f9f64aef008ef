"""Normalization layers."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lora_graph import checks
from lora_graph.ir import dims
from lora_graph.ir.leaves import size_of
from lora_graph.ir.value import Value
from lora_graph.layers.layer import Layer
from lora_graph.layers.samples import image_shape
from lora_graph.layers.trace import Context
from lora_graph.ops.normalization import batch_normalization, batch_statistics, layer_normalization
from lora_graph.ops.select import where
from lora_graph.ops.shape import with_one_batch_axis


class BatchNormalizationLayer(Layer):
    """y = (x - μ) / √(σ² + ε) · weight + bias for each channel of ``[channels, *spatial]`` (Ioffe & Szegedy, 2015).

    In training μ and σ² are those of the batch, and ``running_mean`` and ``running_var``, which do not train, become
    old · momentum + new · (1 - momentum), as in ONNX (σ² the population's variance); an empty batch leaves them. In
    evaluation, and where the layer is frozen, μ and σ² are the running ones, and stay. ``spatial_axes=0`` normalizes
    features.
    """

    def __init__(
        self,
        channels: int,
        momentum: float = 0.9,
        epsilon: float = 1e-5,
        *,
        spatial_axes: int = 2,
        dtype: npt.DTypeLike = np.float32,
        layer_name: str | None = None,
    ):
        count, axes = checks.integer("channels", channels, 1), checks.integer("spatial_axes", spatial_axes, 0, 3)
        self.momentum, self.epsilon = checks.below_one("momentum", momentum), checks.positive("epsilon", epsilon)
        sample = image_shape(count, axes) if axes else (count,)
        super().__init__(input_shape=sample, output_shape=sample, dtype=dtype, layer_name=layer_name)
        self.add_parameter("weight", np.ones(count))
        self.add_parameter("bias", np.zeros(count))
        self.add_parameter("running_mean", np.zeros(count), trainable=False)
        self.add_parameter("running_var", np.ones(count), trainable=False)

    def build(self, ctx: Context, x: Value) -> Value:
        return with_one_batch_axis(x, len(self.input_shape), lambda images: self._normalized(ctx, images))

    def _normalized(self, ctx: Context, x: Value) -> Value:
        mean, var = ctx.param("running_mean"), ctx.param("running_var")
        if ctx.training and not ctx.frozen:
            running, (mean, var) = (mean, var), batch_statistics(x)
            is_any = size_of(dims.product((x.shape[0], *x.shape[2:])), np.int64) > 0
            for name, old, new in zip(("running_mean", "running_var"), running, (mean, var), strict=True):
                ctx.update(name, where(is_any, old * self.momentum + new * (1 - self.momentum), old))
        return batch_normalization(x, ctx.param("weight"), ctx.param("bias"), mean, var, self.epsilon)


class LayerNormalizationLayer(Layer):
    """y = (x - μ) / √(σ² + ε) · weight + bias, with μ and σ² over the features of each sample (Ba et al., 2016)."""

    def __init__(
        self, size: int, epsilon: float = 1e-5, *, dtype: npt.DTypeLike = np.float32, layer_name: str | None = None
    ):
        count, self.epsilon = checks.integer("size", size, 1), checks.positive("epsilon", epsilon)
        super().__init__(input_shape=(count,), output_shape=(count,), dtype=dtype, layer_name=layer_name)
        self.add_parameter("weight", np.ones(count))
        self.add_parameter("bias", np.zeros(count))

    def build(self, ctx: Context, x: Value) -> Value:
        return layer_normalization(x, ctx.param("weight"), ctx.param("bias"), self.epsilon)
