"""Layers one after the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from lora_graph.ir.dims import Dim, Shape, names, shape_of
from lora_graph.ir.types import show
from lora_graph.ir.value import Value
from lora_graph.layers.interface import declared_shape, ends_in
from lora_graph.layers.layer import Layer
from lora_graph.layers.trace import Context


class Sequential(Layer):
    """y = fₙ(… f₂(f₁(x))). The layers' parameters are named ``0.weight``, ``1.base.weight`` …

    A layer may take fewer axes than the one before gives: further ones in front are kept, as batch axes are. One that
    takes more claims axes in front of those that the layers before it take. Names in the shapes of a layer stand for
    what the layers before it give; ``input_shape`` fixes those of the whole, such as ``(1, 28, 28)`` for images.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        *,
        input_shape: Sequence[int | str | Dim] | None = None,
        layer_name: str | None = None,
    ):
        if isinstance(layers, Layer) or not isinstance(layers, Sequence):
            raise TypeError(f"layers must be a list of layers, got {layers!r}")
        if not layers:
            raise ValueError("layers must hold at least one layer")
        for index, layer in enumerate(layers):
            if not isinstance(layer, Layer):
                raise TypeError(f"layers[{index}] must be a Layer, got {layer!r}")
        first = layers[0]
        for index, layer in enumerate(layers):
            if layer.dtype != first.dtype:
                raise ValueError(f"layers[0] is {first.dtype} but layers[{index}] is {layer.dtype}")
        takes, gives = chained(layers, first.input_shape)
        if input_shape is not None:
            fixed = shape_of(input_shape)
            if len(fixed) != len(takes) or not ends_in(fixed, takes):
                raise ValueError(f"input_shape must be of the form {show(takes)}, got {show(fixed)}")
            takes, gives = chained(layers, fixed)
        super().__init__(input_shape=takes, output_shape=gives, dtype=first.dtype, layer_name=layer_name)
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


def chained(layers: Sequence[Layer], shape: Shape) -> tuple[Shape, Shape]:
    """What the layers take and give as a whole, where the first one gets ``shape``; ValueError if they do not fit."""
    takes = shape
    for index, layer in enumerate(layers):
        claimed = layer.input_shape[: max(0, len(layer.input_shape) - len(shape))]
        try:
            if {name for size in claimed for name in names(size)} & {name for size in takes for name in names(size)}:
                raise ValueError(f"an axis of {show(claimed)} is called like one of {show(takes)}")
            given = declared_shape(layer, claimed + shape)
        except ValueError as error:
            what = f"layers[{index - 1}] gives" if index else "input_shape is"
            takes_now = show(layer.input_shape)
            raise ValueError(f"{what} {show(shape)} but layers[{index}] takes {takes_now}") from error
        if any(isinstance(size, int) and size < 1 for size in given):
            raise ValueError(f"input_shape {show(takes)} is too small: layers[{index}] would give {show(given)}")
        takes, shape = claimed + takes, given
    return takes, shape
