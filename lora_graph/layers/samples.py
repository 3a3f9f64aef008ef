"""The shapes of samples."""

from __future__ import annotations

from lora_graph.ir.dims import Shape, shape_of

SIZES = ("depth", "height", "width")


def image_shape(channels: int | str, axes: int) -> Shape:
    """An image ``[channels, …]`` whose sizes have names: length, or height and width, or depth, height and width."""
    names = ("length",) if axes == 1 else SIZES[-axes:] if axes <= len(SIZES) else [f"size{i}" for i in range(axes)]
    return shape_of((channels, *names))
