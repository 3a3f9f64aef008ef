"""The shapes of samples, and inputs with no batch axis or with several, for ops that take exactly one."""

from __future__ import annotations

from collections.abc import Callable

from lora_graph.ir import dims
from lora_graph.ir.dims import Shape, shape_of
from lora_graph.ir.value import Value

SIZES = ("depth", "height", "width")


def image_shape(channels: int | str, axes: int) -> Shape:
    """An image ``[channels, …]`` whose sizes have names: length, or height and width, or depth, height and width."""
    names = ("length",) if axes == 1 else SIZES[-axes:] if axes <= len(SIZES) else [f"size{i}" for i in range(axes)]
    return shape_of((channels, *names))


def with_one_batch_axis(x: Value, sample: int, function: Callable[[Value], Value]) -> Value:
    """``function(x)`` for a function of ``[batch, *sample]``, where ``x`` may have any axes before its last ``sample``.

    They are folded into one and unfolded again in the result.
    """
    lead = x.shape[: x.rank - sample]
    if len(lead) == 1:
        return function(x)
    y = function(x.reshape((dims.product(lead), *x.shape[x.rank - sample :])))
    return y.reshape((*lead, *y.shape[1:]))
