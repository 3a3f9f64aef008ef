"""Rows of convolutions, their transposes and the gradient of their kernels, against plain loops."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

import numpy as np

from tests.op_cases import Case, case, x
from tests.op_rows.common import op

Ints = Sequence[int]


def places(size: Ints, kernel: Ints, counts: Ints, s: Ints, p: Ints, d: Ints) -> Iterator[tuple[Any, Any, Any]]:
    """Indices, for the last axes, of the elements of x, w and y that meet in a convolution."""
    for at, offset in product(product(*map(range, counts)), product(*map(range, kernel))):
        place = [t * n + o * m - b for t, n, o, m, b in zip(at, s, offset, d, p, strict=False)]
        if all(0 <= i < n for i, n in zip(place, size, strict=True)):
            yield (..., *place), (..., *offset), (..., *at)


def split(a: Any, axis: int, group: int) -> Any:
    return a.reshape(*a.shape[:axis], group, a.shape[axis] // group, *a.shape[axis + 1 :])


def convolved(s: Ints, p: Ints, d: Ints, g: int) -> Any:
    def formula(a: Any, w: Any, bias: Any = None) -> Any:
        counts = [
            (n + p[i] + p[i + len(s)] - (k - 1) * d[i] - 1) // s[i] + 1
            for i, (n, k) in enumerate(zip(a.shape[2:], w.shape[2:], strict=True))
        ]
        y = np.zeros((len(a), g, len(w) // g, *counts))
        a, w = split(a, 1, g), split(w, 0, g)
        for of_x, of_w, of_y in places(a.shape[3:], w.shape[3:], counts, s, p, d):
            y[of_y] += np.einsum("ngc,goc->ngo", a[of_x], w[of_w])
        y = y.reshape(len(a), g * w.shape[1], *counts)
        return y if bias is None else y + bias.reshape(-1, *[1] * len(s))

    return formula


def transposed(s: Ints, p: Ints, d: Ints, more: Ints, g: int) -> Any:
    def formula(a: Any, w: Any, bias: Any = None) -> Any:
        sizes = [
            (n - 1) * s[i] + (k - 1) * d[i] + 1 + more[i] - p[i] - p[i + len(s)]
            for i, (n, k) in enumerate(zip(a.shape[2:], w.shape[2:], strict=True))
        ]
        y = np.zeros((len(a), g, w.shape[1], *sizes))
        a, w = split(a, 1, g), split(w, 0, g)
        for of_y, of_w, of_x in places(sizes, w.shape[3:], a.shape[3:], s, p, d):
            y[of_y] += np.einsum("ngc,gco->ngo", a[of_x], w[of_w])
        y = y.reshape(len(a), g * w.shape[2], *sizes)
        return y if bias is None else y + bias.reshape(-1, *[1] * len(s))

    return formula


def weighed(kernel: Ints, s: Ints, p: Ints, d: Ints, g: int) -> Any:
    def formula(a: Any, y: Any) -> Any:
        a, y = split(a, 1, g), split(y, 1, g)
        w = np.zeros((g, y.shape[2], a.shape[2], *kernel))
        for of_x, of_w, of_y in places(a.shape[3:], kernel, y.shape[3:], s, p, d):
            w[of_w] += np.einsum("ngc,ngo->goc", a[of_x], y[of_y])
        return w.reshape(g * y.shape[2], a.shape[2], *kernel)

    return formula


GEOMETRIES: tuple[tuple[str, str, Ints, Ints, Ints, int], ...] = (
    ("batch 2 5", "3 2 3", (1,), (1, 1), (1,), 1),
    ("batch 2 6", "4 1 2", (2,), (1, 0), (2,), 2),
    ("batch 2 4 5", "3 2 3 3", (1, 1), (1, 1, 1, 1), (1, 1), 1),
    ("batch 2 3 2", "3 2 1 1", (1, 1), (0, 0, 0, 0), (1, 1), 1),
    ("batch 2 5 4", "2 2 3 2", (2, 1), (1, 0, 0, 2), (1, 1), 1),
    ("batch 1 6 5", "2 1 2 2", (1, 2), (0, 1, 1, 0), (3, 2), 1),
    ("batch 4 3 3", "2 2 2 2", (1, 1), (0, 0, 1, 1), (1, 1), 2),
    ("batch 3 4 3", "6 1 3 3", (2, 2), (1, 1, 1, 1), (1, 1), 3),
    ("batch 1 3 2 3", "2 1 2 2 2", (1, 1, 2), (0, 1, 0, 1, 0, 1), (1, 1, 1), 1),
    ("batch 2 time width", "2 2 3 3", (1, 1), (1, 1, 1, 1), (1, 1), 1),
    ("batch 2 time width", "4 1 2 3", (2, 3), (1, 1, 0, 2), (1, 1), 2),
    ("2 2 width", "3 2 2", (1,), (0, 0), (1,), 1),
)
"""Shapes of x and w, strides, pads, dilations and group."""

TRANSPOSES: tuple[tuple[str, str, Ints, Ints, Ints, Ints, int], ...] = (
    ("batch 2 4", "2 3 3", (1,), (1, 1), (1,), (0,), 1),
    ("batch 2 3", "2 2 2", (2,), (0, 1), (2,), (1,), 2),
    ("batch 2 2", "2 1 2", (2,), (0, 0), (3,), (1,), 1),
    ("batch 2 3 2", "2 3 3 3", (2, 2), (1, 1, 1, 1), (1, 1), (1, 1), 1),
    ("batch 2 3 2", "2 1 1 2", (1, 3), (0, 0, 0, 1), (1, 1), (0, 2), 1),
    ("batch 3 2 2", "3 1 2 2", (1, 2), (1, 0, 0, 0), (1, 1), (0, 0), 3),
    ("batch 1 2 1 2", "1 2 2 1 2", (1, 2, 2), (0, 0, 1, 1, 0, 0), (1, 1, 1), (0, 1, 0), 1),
    ("batch 2 time width", "2 2 3 3", (2, 1), (1, 1, 1, 1), (1, 1), (1, 0), 1),
    ("batch 2 time", "2 2 2", (3,), (0, 1), (1,), (2,), 2),
)
"""Shapes of x and w, strides, pads, dilations, output_padding and group."""

WEIGHTS: tuple[tuple[str, str, Ints, Ints, Ints, Ints, int], ...] = (
    ("batch 2 5", "batch 3 5", (3,), (1,), (1, 1), (1,), 1),
    ("batch 2 6", "batch 2 3", (2,), (2,), (1, 0), (2,), 2),
    ("batch 2 4 5", "batch 3 4 5", (3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 1),
    ("batch 2 5 4", "batch 2 2 4", (3, 2), (2, 1), (1, 0, 0, 1), (1, 1), 1),
    ("batch 3 4 3", "batch 6 2 2", (3, 3), (2, 2), (1, 1, 1, 1), (1, 1), 3),
    ("batch 1 6", "batch 1 3", (2,), (1,), (0, 0), (3,), 1),
    ("batch 2 time width", "batch 2 time width", (3, 1), (1, 1), (1, 0, 1, 0), (1, 1), 1),
)
"""Shapes of x and y, kernel, strides, pads, dilations and group."""


def convolution() -> Iterator[Case]:
    for a, w, s, p, d, g in GEOMETRIES:
        for bias in ((), (x(w.split()[0]),)):
            yield case(op("Conv", s, p, d, g), x(a), x(w), *bias, expected=convolved(s, p, d, g), onnx64=False)
    for a, w, s, p, d, more, g in TRANSPOSES:
        outputs = x(str(int(w.split()[1]) * g))
        for bias in ((), (outputs,)):
            transpose = op("ConvTranspose", s, p, d, more, g)
            yield case(transpose, x(a), x(w), *bias, expected=transposed(s, p, d, more, g), onnx64=False)
    for a, y, k, s, p, d, g in WEIGHTS:
        weight = op("ConvWeightGradient", k, s, p, d, g)
        yield case(weight, x(a), x(y), expected=weighed(k, s, p, d, g), onnx64=False)
