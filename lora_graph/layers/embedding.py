"""Embedding: a vector for each of a number of things."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from lora_graph import checks
from lora_graph.ir.value import Value
from lora_graph.layers.layer import Layer
from lora_graph.layers.trace import Context
from lora_graph.ops.gather import gather


class EmbeddingLayer(Layer):
    """y = weight[x]: row x of ``weight`` ``[count, size]``, which starts as N(0, 1), for each int64 x in 0..count-1.

    A sample is one number, so that ``[batch]`` gives ``[batch, size]`` and ``[batch, time]`` gives
    ``[batch, time, size]``; negative numbers count from the end, as in ONNX.
    """

    def __init__(
        self,
        count: int,
        size: int,
        *,
        dtype: npt.DTypeLike = np.float32,
        rng: checks.Seed = None,
        layer_name: str | None = None,
    ):
        rows, columns = checks.integer("count", count, 1), checks.integer("size", size, 1)
        super().__init__(input_shape=(), output_shape=(columns,), dtype=dtype, rng=rng, layer_name=layer_name)
        self.add_parameter("weight", self.rng.standard_normal((rows, columns)))

    @property
    def input_dtype(self) -> np.dtype[Any]:
        return np.dtype(np.int64)

    def build(self, ctx: Context, x: Value) -> Value:
        y: Value = gather(ctx.param("weight"), x)
        return y
