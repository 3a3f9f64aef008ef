"""Layers one after the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from lora_graph.ir.types import show
from lora_graph.ir.value import Value
from lora_graph.layers.layer import Layer
from lora_graph.layers.trace import Context


class Sequential(Layer):
    """y = fₙ(… f₂(f₁(x))). The layers' parameters are named ``0.weight``, ``1.base.weight`` …"""

    def __init__(self, layers: Sequence[Layer], *, layer_name: str | None = None):
        chain = list(layers)
        if not chain:
            raise ValueError("layers must hold at least one layer")
        for index, layer in enumerate(chain):
            if not isinstance(layer, Layer):
                raise TypeError(f"layers[{index}] must be a Layer, got {layer!r}")
        for index, (first, second) in enumerate(zip(chain, chain[1:], strict=False)):
            have, want = first.output_shape, second.input_shape
            if len(have) != len(want) or any(
                isinstance(a - b, int) and a != b for a, b in zip(have, want, strict=True)
            ):
                raise ValueError(f"layers[{index}] gives {show(have)} but layers[{index + 1}] takes {show(want)}")
            if first.dtype != second.dtype:
                raise ValueError(f"layers[{index}] is {first.dtype} but layers[{index + 1}] is {second.dtype}")
        super().__init__(
            input_shape=chain[0].input_shape,
            output_shape=chain[-1].output_shape,
            dtype=chain[0].dtype,
            layer_name=layer_name,
        )
        for index, layer in enumerate(chain):
            self.add_child(str(index), layer)

    @property
    def layers(self) -> tuple[Layer, ...]:
        return tuple(self.children.values())

    def __len__(self) -> int:
        return len(self.layers)

    def __getitem__(self, index: int) -> Layer:
        return self.layers[index]

    def __iter__(self) -> Iterator[Layer]:
        return iter(self.layers)

    def build(self, ctx: Context, x: Value) -> Value:
        for layer in self.layers:
            x = ctx.call(layer, x)
        return x
