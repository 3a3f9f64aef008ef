"""Rows of gathering and scattering."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from tests.op_cases import Case, case, i, x
from tests.op_rows.common import op


def indexing() -> Iterator[Case]:
    def rows(data: Any, indices: Any, axis: int) -> Any:
        picked = [np.take(data, int(n), axis) for n in indices.ravel()]
        rest = np.delete(data.shape, axis)
        stacked = np.stack(picked, axis) if picked else np.zeros((*rest[:axis], 0, *rest[axis:]))
        return stacked.reshape((*data.shape[:axis], *indices.shape, *data.shape[axis + 1 :]))

    for axis, data, indices, dtype in (
        (0, "5 2", "batch", "int64"),
        (0, "5 2", "batch time", "int32"),
        (1, "batch 5 2", "3", "int64"),
        (-1, "batch 5", "", "int64"),
        (0, "5", "batch 2", "int64"),
        (0, "5", "", "int64"),
    ):
        yield case(
            op("Gather", axis),
            x(data),
            i(indices, -5, 5, dtype),
            expected=lambda d, n, axis=axis: rows(d, n, axis % d.ndim),
        )
    yield from element_indexing()
    yield from multi_indexing()


def element_indexing() -> Iterator[Case]:
    def each(indices: Any, axis: int) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
        """Where an index stands, and what it points at."""
        for at in np.ndindex(indices.shape):
            to = list(at)
            to[axis] = int(indices[at])
            yield at, tuple(to)

    def gathered(d: Any, n: Any, axis: int) -> Any:
        result = np.zeros(n.shape)
        for at, to in each(n, axis):
            result[at] = d[to]
        return result

    def scattered(d: Any, n: Any, u: Any, axis: int, add: bool) -> Any:
        result = d.copy()
        for at, to in each(n, axis):
            result[to] = u[at] + (result[to] if add else 0)
        return result

    for axis, data, indices in (
        (0, "4 3", "batch 3"),
        (1, "batch 4", "batch 2"),
        (-1, "3 4", "2 3"),
        (0, "4", "batch"),
    ):
        yield case(
            op("GatherElements", axis),
            x(data),
            i(indices, -4, 4),
            expected=lambda d, n, axis=axis: gathered(d, n, axis),
        )
        yield case(
            op("ScatterElements", axis, "add"),
            x(data),
            i(indices, 0, 4),
            x(indices),
            expected=lambda d, n, u, axis=axis: scattered(d, n, u, axis, True),
        )
    once = i("batch 1", 0, 4)
    yield case(
        op("ScatterElements", 1),
        x("batch 4"),
        once,
        x("batch 1"),
        expected=lambda d, n, u: scattered(d, n, u, 1, False),
    )


def multi_indexing() -> Iterator[Case]:
    def scattered(d: Any, n: Any, u: Any, add: bool) -> Any:
        result = d.copy()
        for at in np.ndindex(n.shape[:-1]):
            to = tuple(int(v) for v in n[at])
            result[to] = u[at] + (result[to] if add else 0)
        return result

    def gathered(d: Any, n: Any) -> Any:
        flat = [d[tuple(int(v) for v in n[at])] for at in np.ndindex(n.shape[:-1])]
        return np.asarray(flat, d.dtype).reshape((*n.shape[:-1], *d.shape[n.shape[-1] :]))

    for data, indices in (("4 3", "batch 1"), ("4 4 2", "batch 3 2"), ("4", "1")):
        depth = int(indices[-1])
        rest = " ".join([*indices.split()[:-1], *data.split()[depth:]])
        yield case(op("GatherND"), x(data), i(indices, -4, 4), expected=gathered)
        yield case(
            op("ScatterND", "add"),
            x(data),
            i(indices, 0, 4),
            x(rest),
            expected=lambda d, n, u: scattered(d, n, u, True),
        )
    yield case(op("ScatterND"), x("4 3"), i("1 1", 0, 4), x("1 3"), expected=lambda d, n, u: scattered(d, n, u, False))
