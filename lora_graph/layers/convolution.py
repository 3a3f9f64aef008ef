"""Convolution: y = act(x ∗ W + b)."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import numpy.typing as npt

from lora_graph import checks
from lora_graph.ir.types import tensor
from lora_graph.ir.value import Value, apply
from lora_graph.layers.dense import Activation, activation_of, glorot
from lora_graph.layers.layer import Layer
from lora_graph.layers.pooling import Sizes, kernel_of
from lora_graph.layers.samples import image_shape
from lora_graph.layers.trace import Context
from lora_graph.ops.convolution import Conv
from lora_graph.ops.reduce import softmax
from lora_graph.ops.shape import with_one_batch_axis
from lora_graph.ops.windows import per_axis


class ConvolutionalLayer(Layer):
    """y = act(x ∗ W + b) for x ``[in_channels, height, width]``, W ``[out_channels, in_channels / groups, kh, kw]``.

    A ``kernel_size`` of one or three ints makes it a convolution over one or three axes; other sizes are one int, or
    one for each axis. W is Glorot-uniform, with fans of the kernel's size times the channels of a group, and b is zero.
    Softmax runs along the channels.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Sizes,
        stride: Sizes = 1,
        padding: Sizes = 0,
        dilation: Sizes = 1,
        groups: int = 1,
        activation: Activation = None,
        *,
        dtype: npt.DTypeLike = np.float32,
        rng: checks.Seed = None,
        layer_name: str | None = None,
    ):
        inner, outer = (
            checks.integer(*each, 1) for each in (("in_channels", in_channels), ("out_channels", out_channels))
        )
        self.groups = checks.integer("groups", groups, 1)
        for name, channels in (("in_channels", inner), ("out_channels", outer)):
            if channels % self.groups:
                raise ValueError(f"groups must divide {name} {channels}, got {groups}")
        kernel = kernel_of(kernel_size)
        axes = len(kernel)
        self.activation, self._activate = activation_of(activation)
        if activation == "softmax":
            self._activate = partial(softmax, axis=1)
        self.conv = Conv(
            per_axis("stride", stride, axes),
            per_axis("padding", padding, axes, 0) * 2,
            per_axis("dilation", dilation, axes),
            self.groups,
        )
        sample, shape = image_shape(inner, axes), (outer, inner // self.groups, *kernel)
        given = self.conv.infer(tensor(np.float32, ("batch", *sample)), tensor(np.float32, shape))
        super().__init__(input_shape=sample, output_shape=given.shape[1:], dtype=dtype, rng=rng, layer_name=layer_name)
        field = math.prod(kernel)
        self.add_parameter("weight", glorot(self.rng, shape[1] * field, outer // self.groups * field, shape))
        self.add_parameter("bias", np.zeros(outer))

    def build(self, ctx: Context, x: Value) -> Value:
        def convolved(images: Value) -> Value:
            y: Value = self._activate(apply(self.conv, images, ctx.param("weight"), ctx.param("bias")))
            return y

        return with_one_batch_axis(x, len(self.input_shape), convolved)

    def get_diagnostics(self) -> dict[str, str]:
        return {**super().get_diagnostics(), "activation": self.activation}
