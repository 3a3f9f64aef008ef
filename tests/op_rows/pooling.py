"""Rows of pools and of normalization over the batch."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from tests.op_cases import Case, case, distinct, i, positive, x
from tests.op_rows.common import op


def pooling() -> Iterator[Case]:
    for shape, kernel, strides, pads, dilations, ceil in GEOMETRIES:
        fields = (kernel, strides, pads, dilations, ceil)
        yield case(op("MaxPool", *fields), x(shape, distinct), expected=lambda a, f=fields: maxima(a, *f)[0])
        yield case(
            op("MaxPoolIndices", *fields),
            x(shape, distinct),
            expected=lambda a, f=fields: maxima(a, *f)[1],
            differentiable=False,
        )
        for include in (0, 1):
            yield case(
                op("AveragePool", *fields, include), x(shape), expected=lambda a, f=fields, c=include: means(a, *f, c)
            )
    yield case(
        op("MaxPool", (2,), (1,), (0, 0), (1,)),
        i("batch 2 5", -9, 9, "int8"),
        expected=lambda a: np.maximum(a[..., :-1], a[..., 1:]),
    )
    for shape in ("batch 2 5", "batch 2 width 3", "2 1 2 3 2"):
        yield case(
            op("GlobalAveragePool"),
            x(shape),
            expected=lambda a: a.mean(tuple(range(2, a.ndim)), keepdims=True),
        )
        yield case(
            op("GlobalMaxPool"),
            x(shape, distinct),
            expected=lambda a: a.max(tuple(range(2, a.ndim)), keepdims=True),
        )
    for shape, epsilon in (("batch 3", 1e-5), ("batch 3 2", 0.5), ("batch 3 width 2", 1e-3), ("2 3 2 1 2", 1e-5)):

        def normalized(a: Any, w: Any, c: Any, m: Any, v: Any, e: float = epsilon) -> Any:
            each = [np.reshape(p, (3,) + (1,) * (a.ndim - 2)) for p in (w, c, m, v)]
            return (a - each[2]) / np.sqrt(each[3] + e) * each[0] + each[1]

        yield case(
            op("BatchNormalization", epsilon), x(shape), x("3"), x("3"), x("3"), x("3", positive), expected=normalized
        )


GEOMETRIES: tuple[tuple[Any, ...], ...] = (
    ("batch 2 5", (2,), (1,), (0, 0), (1,), 0),
    ("batch 2 6", (3,), (2,), (1, 1), (1,), 1),
    ("batch 1 7", (2,), (3,), (0, 1), (2,), 0),
    ("batch 2 4 4", (2, 2), (2, 2), (0, 0, 0, 0), (1, 1), 0),
    ("batch 2 5 4", (3, 2), (1, 2), (1, 0, 2, 1), (1, 1), 0),
    ("batch 1 6 5", (2, 3), (2, 2), (1, 1, 0, 1), (2, 1), 1),
    ("batch 1 width 3", (2, 2), (2, 1), (1, 0, 0, 1), (1, 1), 0),
    ("2 1 width 5", (2, 2), (3, 2), (0, 0, 1, 0), (1, 1), 1),
    ("1 2 3 4 3", (2, 2, 2), (1, 2, 1), (0, 1, 1, 0, 0, 1), (1, 1, 2), 0),
)
"""Shape, kernel_shape, strides, pads, dilations and ceil_mode."""


def windows(a: Any, kernel: Any, strides: Any, pads: Any, dilations: Any, ceil: int) -> Iterator[tuple[Any, list[Any]]]:
    """Where each window stands in the result, and the positions it looks at, none beyond the pads."""
    n = len(kernel)
    counts = []
    for j, size in enumerate(a.shape[2:]):
        room = size + pads[j] + pads[j + n] - (kernel[j] - 1) * dilations[j] - 1
        count = (math.ceil if ceil else math.floor)(room / strides[j]) + 1
        counts.append(count - 1 if (count - 1) * strides[j] >= size + pads[j] else count)
    for at in np.ndindex(*counts):
        looked = []
        for k in np.ndindex(*kernel):
            position = tuple(o * s + t * d - p for o, s, t, d, p in zip(at, strides, k, dilations, pads, strict=False))
            if all(p < size + pads[j + n] for j, (p, size) in enumerate(zip(position, a.shape[2:], strict=True))):
                looked.append(position)
        yield at, looked


def maxima(a: Any, *fields: Any) -> tuple[Any, Any]:
    found = list(windows(a, *fields))
    shape = (*a.shape[:2], *(np.asarray([at for at, _ in found]).max(0) + 1))
    values, indices = np.zeros(shape), np.zeros(shape, np.int64)
    for channel in np.ndindex(*a.shape[:2]):
        for at, looked in found:
            inside = [p for p in looked if all(0 <= q < size for q, size in zip(p, a.shape[2:], strict=True))]
            best = max(inside, key=lambda p, c=channel: a[(*c, *p)])  # the first of equal ones
            values[(*channel, *at)] = a[(*channel, *best)]
            indices[(*channel, *at)] = np.ravel_multi_index((*channel, *best), a.shape)
    return values, indices


def means(a: Any, *fields: Any) -> Any:
    *geometry, include = fields
    found = list(windows(a, *geometry))
    result = np.zeros((*a.shape[:2], *(np.asarray([at for at, _ in found]).max(0) + 1)))
    for at, looked in found:
        inside = [p for p in looked if all(0 <= q < size for q, size in zip(p, a.shape[2:], strict=True))]
        total = sum(a[(slice(None), slice(None), *p)] for p in inside)
        result[(slice(None), slice(None), *at)] = total / (len(looked) if include else len(inside))
    return result
