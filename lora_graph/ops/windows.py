"""The geometry of windows that slide over spatial axes: what convolutions and pools share.

Pads are all begins, then all ends, as in ONNX. They may be symbolic: SAME padding with a stride depends on the size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lora_graph.ir import dims
from lora_graph.ir.dims import Dim, Shape
from lora_graph.ir.op import NodeView


def extent(kernel: int, dilation: int) -> int:
    """How far a window reaches: (kernel - 1) · dilation + 1."""
    return (kernel - 1) * dilation + 1


def window_count(size: Dim, reach: int, stride: int, padding: Dim) -> Dim:
    """How many windows of ``reach`` fit: (size + padding - reach) // stride + 1."""
    return (size + padding - reach) // stride + 1


def same_pads(
    spatial: Shape, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int], upper: bool = True
) -> tuple[Dim, ...]:
    """The pads that give ceil(size / stride) windows on each axis; an odd one goes to the end, or to the begin."""
    totals: list[Dim] = []
    for size, k, stride, dilation in zip(spatial, kernel, strides, dilations, strict=True):
        # with stride 1 the size cancels, and so the pads are known whatever it is
        windows = (size - 1) // stride * stride
        totals.append(dims.maximum(windows + extent(k, dilation) - size, 0))
    less = tuple(total // 2 for total in totals)
    more = tuple(total - half for total, half in zip(totals, less, strict=True))
    return less + more if upper else more + less


def read_pads(
    node: NodeView, spatial: Shape, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> tuple[Dim, ...]:
    """The pads of a node, whether it lists them or names a rule (``auto_pad``)."""
    mode = node.attributes.get("auto_pad", "NOTSET")
    if mode in ("SAME_UPPER", "SAME_LOWER"):
        return same_pads(spatial, kernel, strides, dilations, mode == "SAME_UPPER")
    if mode not in ("NOTSET", "VALID"):
        raise ValueError(f"auto_pad is NOTSET, VALID, SAME_UPPER or SAME_LOWER, not {mode!r}")
    given = node.attributes.get("pads") if mode == "NOTSET" else None
    return tuple(given or (0,) * (2 * len(kernel)))


def written_pads(
    pads: Sequence[Dim], spatial: Shape, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> dict[str, Any]:
    """The attribute that writes ``pads``: as ints, or as the rule that gives them where they are symbolic."""
    if all(isinstance(pad, int) for pad in pads):
        return {"pads": tuple(pads)}
    for mode in ("SAME_UPPER", "SAME_LOWER"):
        if same_pads(spatial, kernel, strides, dilations, mode == "SAME_UPPER") == tuple(pads):
            return {"auto_pad": mode}
    raise ValueError(f"ONNX writes pads as ints or as SAME padding, not as {', '.join(map(str, pads))}")


def per_axis(name: str, value: int | Sequence[int], axes: int, least: int = 1) -> tuple[int, ...]:
    """One int for each of ``axes`` spatial axes, given as one for all or one for each."""
    given = (value,) * axes if isinstance(value, int) and not isinstance(value, bool) else value
    if not isinstance(given, Sequence) or not all(isinstance(v, int) and not isinstance(v, bool) for v in given):
        raise TypeError(f"{name} must be an int, or one for each spatial axis, got {value!r}")
    if len(given) != axes or any(v < least for v in given):
        raise ValueError(f"{name} must be {axes} ints of at least {least}, got {value!r}")
    return tuple(given)
