"""NumPy kernels of convolutions: blocked matrix products over columns of windows.

All three work on x [N, C, *S], w [O, C/group, *K] and y [N, O, *T] of one float dtype, with pads as all begins, then
all ends. Loops run over the offsets of the kernel and over blocks of samples, never over positions.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from lora_graph.ir.types import Array
from lora_graph.ops.base import store

BLOCK_BYTES = 1 << 20
"""Bytes of columns that are made before they are multiplied: they stay in the cache."""

Ints = Sequence[int]


def convolve(
    x: Array, w: Array, strides: Ints, pads: Ints, dilations: Ints, group: int, out: Array | None = None
) -> Array:
    """y[n, o, t] = Σ x[n, c, t · stride + k · dilation - pad] w[o, c, k], with zeros outside of x; in ``out`` if given,
    which is row-major and of the dtype of x."""
    outputs, kernel = w.shape[0], w.shape[2:]
    frame = padded(x, pads)
    counts = _counts(frame, kernel, strides, dilations)
    y = np.empty((len(x), outputs, *counts), x.dtype) if out is None else out
    products = y.reshape(len(x), group, outputs // group, math.prod(counts))
    weight = w.reshape(group, outputs // group, math.prod(w.shape[1:]))
    for block in _blocks(frame, kernel, counts):
        np.matmul(weight, _columns(frame[block], kernel, counts, strides, dilations, group), out=products[block])
    return y


def scatter(
    y: Array,
    w: Array,
    size: Ints,
    strides: Ints,
    pads: Ints,
    dilations: Ints,
    group: int,
    out: Array | None = None,
) -> Array:
    """The transpose of :func:`convolve` in x, whose spatial axes have ``size``:

    x[n, c, t · stride + k · dilation - pad] = Σ y[n, o, t] w[o, c, k].
    """
    # copying the columns of y is cheaper than adding up those of x, unless y has far more channels
    if all(stride == 1 for stride in strides) and len(w) <= 3 * w.shape[1] * group:
        reach = [(k - 1) * d for k, d in zip(w.shape[2:], dilations, strict=True)]
        beyond = [r - pad for r, pad in zip(reach * 2, pads, strict=True)]
        if min(beyond) >= 0:
            return convolve(y, _turned(w, group), strides, beyond, dilations, group, out)
    x = _scattered(y, w, size, strides, pads[: len(size)], dilations, group)
    return store(x, out)


def _turned(w: Array, group: int) -> Array:
    """The kernel with which a convolution of stride 1 is the transpose of that with ``w``."""
    outputs, channels, *kernel = w.shape
    parts = w.reshape(group, outputs // group, channels, *kernel).swapaxes(1, 2)
    flipped = np.flip(parts.reshape(group * channels, outputs // group, *kernel), tuple(range(2, w.ndim)))
    return np.ascontiguousarray(flipped)  # BLAS does not take negative strides


def _scattered(y: Array, w: Array, size: Ints, strides: Ints, begins: Ints, dilations: Ints, group: int) -> Array:
    samples, outputs, *counts = y.shape
    channels, kernel = w.shape[1], w.shape[2:]
    reach = [(t - 1) * s + (k - 1) * d + 1 for t, s, k, d in zip(counts, strides, kernel, dilations, strict=True)]
    extents = [max(r, begin + n) for r, begin, n in zip(reach, begins, size, strict=True)]
    frame = np.zeros((samples, group * channels, *extents), y.dtype)
    weight = w.reshape(group, outputs // group, channels * math.prod(kernel)).swapaxes(1, 2)
    spread = y.reshape(samples, group, outputs // group, math.prod(counts))
    for block in _blocks(frame, kernel, counts):
        columns = np.matmul(weight, spread[block]).reshape(-1, group * channels, *kernel, *counts)
        for offset in np.ndindex(*kernel):
            frame[block][_taken(offset, counts, strides, dilations)] += columns[(slice(None), slice(None), *offset)]
    x: Array = frame[_inner(begins, size)]
    return x


def weight_gradient(x: Array, y: Array, kernel: Ints, strides: Ints, pads: Ints, dilations: Ints, group: int) -> Array:
    """The transpose of :func:`convolve` in w: w[o, c, k] = Σ x[n, c, t · stride + k · dilation - pad] y[n, o, t]."""
    samples, outputs, *counts = y.shape
    frame = padded(x, pads)
    w = np.zeros((group, outputs // group, x.shape[1] // group * math.prod(kernel)), x.dtype)
    cotangents = y.reshape(samples, group, outputs // group, math.prod(counts))
    for block in _blocks(frame, kernel, counts):
        columns = _columns(frame[block], kernel, counts, strides, dilations, group)
        w += np.matmul(cotangents[block], columns.swapaxes(2, 3)).sum(0)
    return w.reshape(outputs, x.shape[1] // group, *kernel)


def padded(x: Array, pads: Ints) -> Array:
    """``x`` with zeros around its spatial axes."""
    if not any(pads):
        return x
    begins, ends = pads[: x.ndim - 2], pads[x.ndim - 2 :]
    sizes = [b + n + e for b, n, e in zip(begins, x.shape[2:], ends, strict=True)]
    frame = np.zeros((*x.shape[:2], *sizes), x.dtype)
    frame[_inner(begins, x.shape[2:])] = x
    return frame


def _inner(begins: Ints, sizes: Ints) -> Any:
    """The index of the part of a frame that is between its pads."""
    return (..., *(slice(begin, begin + size) for begin, size in zip(begins, sizes, strict=True)))


def _counts(frame: Array, kernel: Ints, strides: Ints, dilations: Ints) -> list[int]:
    """How many windows there are along each spatial axis."""
    return [
        (n - (k - 1) * d - 1) // s + 1 for n, k, s, d in zip(frame.shape[2:], kernel, strides, dilations, strict=True)
    ]


def _columns(frame: Array, kernel: Ints, counts: Ints, strides: Ints, dilations: Ints, group: int) -> Array:
    """Every window as a column: ``[N, group, C/group · prod(K), prod(T)]``."""
    samples, channels = frame.shape[:2]
    steps = frame.strides[2:]
    windows = as_strided(
        frame,
        (samples, channels, *kernel, *counts),
        (
            *frame.strides[:2],
            *(step * d for step, d in zip(steps, dilations, strict=True)),
            *(step * s for step, s in zip(steps, strides, strict=True)),
        ),
        writeable=False,
    )
    return windows.reshape(samples, group, channels // group * math.prod(kernel), math.prod(counts))


def _taken(offset: Ints, counts: Ints, strides: Ints, dilations: Ints) -> Any:
    """The index of what the kernel's element at ``offset`` sees of a frame."""
    return (
        ...,
        *(
            slice(k * d, k * d + (t - 1) * s + 1, s)
            for k, t, s, d in zip(offset, counts, strides, dilations, strict=True)
        ),
    )


def _blocks(frame: Array, kernel: Ints, counts: Ints) -> Iterator[slice]:
    """Slices of samples whose columns fill about ``BLOCK_BYTES``."""
    column_bytes = frame.shape[1] * math.prod(kernel) * math.prod(counts) * frame.itemsize
    step = max(1, BLOCK_BYTES // max(1, column_bytes))
    for start in range(0, len(frame), step):
        yield slice(start, start + step)
