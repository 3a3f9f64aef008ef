"""What convolutions compute, as plain loops over positions and elements of the kernel."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

import numpy as np

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
