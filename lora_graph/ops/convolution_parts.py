"""What convolutions and their transposes share beside the geometry: channels, bias, dtypes, ONNX attributes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lora_graph.ir.dims import Dim, Shape
from lora_graph.ir.op import NodeView
from lora_graph.ir.types import Array, TensorType, meet, show
from lora_graph.ir.value import Value
from lora_graph.ops.base import store


def check_group(name: str, group: int) -> None:
    if isinstance(group, bool) or not isinstance(group, int):
        raise TypeError(f"{name}: group must be an int, got {group!r}")
    if group < 1:
        raise ValueError(f"{name}: group must be at least 1, got {group}")


def check_divides(name: str, what: str, count: Dim, group: int) -> None:
    if isinstance(count, int) and count % group:
        raise ValueError(f"{name}: group must divide {what}, but {count} is no multiple of {group}")


def check_operands(name: str, operands: Sequence[TensorType], axes: int) -> None:
    """Floats of one dtype: two with ``axes`` spatial axes, and then at most a bias, which is a vector."""
    listed = ", ".join(map(str, operands))
    if len(operands) not in (2, 3):
        raise TypeError(f"{name} takes 2 or 3 operands, got {len(operands)}")
    if not operands[0].is_float or any(operand.dtype != operands[0].dtype for operand in operands):
        raise TypeError(f"{name}: operands must be floats of one dtype, got {listed}")
    if not axes or any(operand.rank != axes + 2 for operand in operands[:2]):
        raise ValueError(f"{name} over {axes} spatial axes takes x and w of {axes + 2} axes, at least 3; got {listed}")
    if any(bias.rank != 1 for bias in operands[2:]):
        raise ValueError(f"{name}: the bias must be a vector, got {operands[2]}")


def check_bias(name: str, outputs: Dim, operands: Sequence[TensorType]) -> None:
    for bias in operands[2:]:
        meet(outputs, bias.shape[0], f"{name}: the bias {bias} must have one element for each output")


def wide(operands: Sequence[Array]) -> list[Array]:
    """Arrays that can be summed up: halves as float32."""
    return [a.astype(np.float32) if a.dtype.itemsize < 4 else a for a in operands]


def writable(out: Array | None, dtype: np.dtype[Any]) -> Array | None:
    """``out`` where a result of ``dtype`` can be computed right there."""
    return out if out is not None and out.dtype == dtype and out.flags.c_contiguous else None


def finished(result: Array, dtype: np.dtype[Any], out: Array | None) -> Array:
    """``result`` as ``dtype``, and in ``out`` if that is given."""
    return result if result is out else store(result.astype(dtype, copy=False), out)


def add_bias(y: Array, *bias: Array) -> Array:
    for column in bias:
        y += column.reshape(-1, *[1] * (y.ndim - 2))
    return y


def bias_flops(result: TensorType, operands: Sequence[TensorType]) -> Dim:
    """One addition an element where there is a bias."""
    return result.size if len(operands) > 2 else 0


def bias_gradient(cotangent: Value) -> Value:
    """The cotangent of a bias: the sum over all axes but that of the channels."""
    return cotangent.sum(axis=(0, *range(2, cotangent.rank)))


def spatial_widths(widths: Sequence[Dim]) -> tuple[Dim, ...]:
    """The pads of a Pad node that leaves batch and channels alone."""
    axes = len(widths) // 2
    return (0, 0, *widths[:axes], 0, 0, *widths[axes:])


def written_geometry(kernel: Shape, strides: tuple[int, ...], dilations: tuple[int, ...], group: int) -> dict[str, Any]:
    """The attributes that ONNX has for a convolution, pads apart; a kernel of unknown size is left to its operand."""
    known = {"kernel_shape": kernel} if all(isinstance(k, int) for k in kernel) else {}
    return {**known, "strides": strides, "dilations": dilations, "group": group}


def read_geometry(node: NodeView) -> tuple[list[Value], tuple[int, ...], tuple[int, ...], int]:
    """Operands, strides, dilations and group of a node; ValueError if it contradicts its operands."""
    operands = [operand for operand in node.operands if operand is not None]
    kernel = operands[1].shape[2:]
    stated = node.attributes.get("kernel_shape", kernel)
    if tuple(stated) != kernel:
        raise ValueError(f"kernel_shape {show(stated)} is not that of the kernel {operands[1].type}")
    ones = (1,) * len(kernel)
    strides, dilations = (tuple(node.attributes.get(name, ones)) for name in ("strides", "dilations"))
    return operands, strides, dilations, node.attributes.get("group", 1)
