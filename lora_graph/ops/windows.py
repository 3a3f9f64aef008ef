"""The geometry of windows that slide over spatial axes: what convolutions and pools share.

Pads are all begins, then all ends, as in ONNX. They may be symbolic: SAME padding with a stride depends on the size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, overload

import numpy as np

from lora_graph.ir import dims
from lora_graph.ir.dims import Dim, Shape
from lora_graph.ir.op import NodeView
from lora_graph.ir.types import show


@overload
def extent(kernel: int, dilation: int) -> int: ...
@overload
def extent(kernel: Dim, dilation: int) -> Dim: ...
def extent(kernel: Dim, dilation: int) -> Dim:
    """How far a window reaches: (kernel - 1) · dilation + 1."""
    return (kernel - 1) * dilation + 1


def window_count(size: Dim, reach: Dim, stride: int, padding: Dim) -> Dim:
    """How many windows of ``reach`` fit: (size + padding - reach) // stride + 1."""
    return (size + padding - reach) // stride + 1


def window_counts(
    what: str, spatial: Shape, kernel: Shape, strides: Sequence[int], dilations: Sequence[int], pads: Sequence[Dim]
) -> Shape:
    """How many windows fit along each axis; ValueError, which begins with ``what``, where not even one does."""
    mode = same_mode(pads, spatial, kernel, strides, dilations)
    counts: list[Dim] = []
    for axis, (size, k, stride, dilation) in enumerate(zip(spatial, kernel, strides, dilations, strict=True)):
        reach, padding = extent(k, dilation), pads[axis] + pads[axis + len(spatial)]
        room = size + padding - reach
        if isinstance(room, int) and room < 0:
            raise ValueError(
                f"{what}: a window that reaches over {reach} does not fit spatial axis {axis}, which has {size} "
                f"elements and {padding} of padding: it takes at least {reach - padding} elements, or a window of at "
                f"most {size + padding}"
            )
        counts.append((size + (stride - 1)) // stride if mode else window_count(size, reach, stride, padding))
    return tuple(counts)


def covered(
    counts: Shape, kernel: Shape, strides: Sequence[int], pads: Sequence[Dim], dilations: Sequence[int]
) -> tuple[Dim, ...]:
    """How many elements lie between the pads from the first window to the end of the last, along each axis."""
    axes = len(counts)
    return tuple(
        (count - 1) * stride + extent(k, dilation) - begin - end
        for count, k, stride, begin, end, dilation in zip(
            counts, kernel, strides, pads[:axes], pads[axes:], dilations, strict=True
        )
    )


def same_pads(
    spatial: Shape, kernel: Shape, strides: Sequence[int], dilations: Sequence[int], upper: bool = True
) -> tuple[Dim, ...]:
    """The pads that give ceil(size / stride) windows on each axis; an odd one goes to the end, or to the begin."""
    totals: list[Dim] = []
    for size, k, stride, dilation in zip(spatial, kernel, strides, dilations, strict=True):
        # with stride 1 the size cancels, and so the pads are known whatever it is
        windows = (size - 1) // stride * stride
        totals.append(dims.maximum(windows + extent(k, dilation) - size, 0))
    return shared(totals, upper)


def shared(totals: Sequence[Dim], upper: bool) -> tuple[Dim, ...]:
    """``totals`` as begins and ends; what is odd goes to the end, or to the begin unless ``upper``."""
    less = tuple(total // 2 for total in totals)
    more = tuple(total - half for total, half in zip(totals, less, strict=True))
    return less + more if upper else more + less


def same_mode(
    pads: Sequence[Dim], spatial: Shape, kernel: Shape, strides: Sequence[int], dilations: Sequence[int]
) -> str | None:
    """The rule (``auto_pad``) that gives symbolic pads, or None where they are ints or no rule does."""
    if all(isinstance(pad, int) for pad in pads):
        return None
    for mode in ("SAME_UPPER", "SAME_LOWER"):
        if same_pads(spatial, kernel, strides, dilations, mode == "SAME_UPPER") == tuple(pads):
            return mode
    return None


def read_pads(
    node: NodeView, spatial: Shape, kernel: Shape, strides: Sequence[int], dilations: Sequence[int]
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
    pads: Sequence[Dim], spatial: Shape, kernel: Shape, strides: Sequence[int], dilations: Sequence[int]
) -> dict[str, Any]:
    """The attribute that writes ``pads``: as ints, or as the rule that gives them where they are symbolic."""
    if all(isinstance(pad, int) for pad in pads):
        return {"pads": tuple(pads)}
    mode = same_mode(pads, spatial, kernel, strides, dilations)
    if mode is None:
        raise ValueError(f"ONNX writes pads as ints or as SAME padding, not as {', '.join(map(str, pads))}")
    return {"auto_pad": mode}


def check_windows(name: str, strides: Sequence[int], pads: Sequence[Dim], dilations: Sequence[int]) -> None:
    """ValueError, which begins with ``name``, unless these slide over the same number of axes in a possible way."""
    axes = len(strides)
    for label, numbers, length, least in (
        ("strides", strides, axes, 1),
        ("dilations", dilations, axes, 1),
        ("pads", pads, 2 * axes, 0),
    ):
        if len(numbers) != length or any(isinstance(n, int) and n < least for n in numbers):
            raise ValueError(f"{name}: {label} must be {length} ints of at least {least}, got {show(numbers)}")


def per_axis(name: str, value: int | Sequence[int], axes: int, least: int = 1) -> tuple[int, ...]:
    """One int for each of ``axes`` spatial axes, given as one for all or one for each; NumPy's are as good."""
    plain = value.tolist() if isinstance(value, np.ndarray) else value
    given = plain if isinstance(plain, Sequence) else (plain,) * axes
    if not all(isinstance(v, int | np.integer) and not isinstance(v, bool) for v in given):
        raise TypeError(f"{name} must be an int, or one for each spatial axis, got {value!r}")
    if len(given) != axes or any(v < least for v in given):
        each = f", or {axes} of them" if axes > 1 else ""
        raise ValueError(f"{name} must be an int of at least {least}{each}, got {value!r}")
    return tuple(map(int, given))


def both_ends(name: str, value: int | Sequence[Dim], axes: int) -> tuple[Dim, ...]:
    """Pads given as one int for all axes, as one for both ends of each axis, or as all begins and all ends."""
    if isinstance(value, Sequence) and len(value) == 2 * axes:
        bad = [v for v in value if isinstance(v, bool) or not isinstance(v, Dim)]
        if bad:
            raise TypeError(f"{name} must be ints, got {value!r}")
        return tuple(value)
    return per_axis(name, value, axes, least=0) * 2  # type: ignore[arg-type]
