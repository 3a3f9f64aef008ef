"""Layers one after the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from lora_graph.ir.types import show
from lora_graph.ir.value import Value
from lora_graph.layers.layer import Layer
from lora_graph.layers.trace import Context, ends_in


class Sequential(Layer):
    """y = fₙ(… f₂(f₁(x))). The layers' parameters are named ``0.weight``, ``1.base.weight`` …

    A layer may take fewer axes than the one before gives: further ones in front are kept, as batch axes are.
    """

    def __init__(self, layers: Sequence[Layer], *, layer_name: str | None = None):
        if isinstance(layers, Layer) or not isinstance(layers, Sequence):
            raise TypeError(f"layers must be a list of layers, got {layers!r}")
        if not layers:
            raise ValueError("layers must hold at least one layer")
        for index, layer in enumerate(layers):
            if not isinstance(layer, Layer):
                raise TypeError(f"layers[{index}] must be a Layer, got {layer!r}")
        first = layers[0]
        shape = first.input_shape
        for index, layer in enumerate(layers):
            if not ends_in(shape, layer.input_shape):
                raise ValueError(
                    f"layers[{index - 1}] gives {show(shape)} but layers[{index}] takes {show(layer.input_shape)}"
                )
            if layer.dtype != first.dtype:
                raise ValueError(f"layers[0] is {first.dtype} but layers[{index}] is {layer.dtype}")
            shape = shape[: len(shape) - len(layer.input_shape)] + layer.output_shape
        super().__init__(input_shape=first.input_shape, output_shape=shape, dtype=first.dtype, layer_name=layer_name)
        self.supports_training = all(layer.supports_training for layer in layers)
        for index, layer in enumerate(layers):
            self.add_child(str(index), layer)

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers, first to last."""
        return tuple(self.children.values())

    @property
    def input_dtype(self) -> np.dtype[Any]:
        return self.layers[0].input_dtype

    def __len__(self) -> int:
        return len(self._children)

    def __getitem__(self, index: int) -> Layer:
        return self.layers[index]

    def __iter__(self) -> Iterator[Layer]:
        return iter(self.layers)

    def build(self, ctx: Context, x: Value) -> Value:
        for layer in self.layers:
            x = ctx.call(layer, x)
        return x
