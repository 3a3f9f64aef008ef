"""Rows of the ops that move elements."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from lora_graph.ir import dim
from tests.op_cases import Case, case, i, x
from tests.op_rows.common import left, op


def movement() -> Iterator[Case]:
    for perm, shape in (
        ((1, 0), "batch 3"),
        ((2, 0, 1), "batch 2 3"),
        ((0, 2, 1), "batch 2 3"),
        ((0,), "batch"),
        ((), ""),
    ):
        letters = "ijk"[: len(perm)]
        spec = f"{letters}->{''.join(letters[axis] for axis in perm)}"
        yield case(op("Transpose", perm), x(shape), expected=lambda a, s=spec: np.einsum(s, a))
    for axis, shape in ((1, "batch 2 3"), (0, "batch 2"), (2, "2 batch width"), (-1, "batch 2 3"), (3, "2 1 batch")):
        yield case(
            op("Flatten", axis),
            x(shape),
            expected=lambda a, at=axis: a.reshape(
                int(np.prod(a.shape[:at])), int(np.prod(a.shape[at:] if at < a.ndim else 1))
            ),
        )
    for shape, new in (
        ("batch 6", "batch 2 3"),
        ("batch 2 3", "2*batch 3"),
        ("4 3", "12"),
        ("1 1", ""),
        ("", "1"),
        ("batch time", "batch*time"),
    ):
        wanted = tuple(dim(int(d) if d.isdigit() else d) for d in new.split())
        yield case(op("Reshape", wanted), x(shape), expected=lambda a, w=wanted: np.ravel(a).reshape(_sizes(a, w)))
    for shape, new in (
        ("3", "batch 3"),
        ("batch 1", "batch 3"),
        ("", "batch 2"),
        ("1 3", "3"),
        ("batch 3", "1"),
        ("batch 3", "batch 3"),
    ):
        wanted = tuple(dim(int(d) if d.isdigit() else d) for d in new.split())
        yield case(op("Expand", wanted), x(shape), expected=_expanded(wanted), empty=False)
    for axes, shape in (((0,), "1 batch 3"), ((-1,), "batch 3 1"), ((0, 2), "1 batch 1"), ((-1, 0), "1 batch 1")):
        yield case(
            op("Squeeze", axes),
            x(shape),
            expected=lambda a, axes=axes: a.reshape(left(a, tuple(n % a.ndim for n in axes), 0)),
        )
    for axes, index in (
        ((0,), (None,)),
        ((-1,), (..., None)),
        ((1, 3), (slice(None), None, slice(None), None)),
        ((-1, 0), (None, ..., None)),
    ):
        yield case(op("Unsqueeze", axes), x(), expected=lambda a, index=index: a[index])
    yield case(op("Unsqueeze", (0, 1)), x(""), expected=lambda a: np.full((1, 1), a))
    yield from slices()
    for axis, shapes in (
        (0, ("batch 3", "1 3")),
        (-1, ("batch 3", "batch 2", "batch 1")),
        (1, ("batch 2 2", "batch time 2")),
        (0, ("3",)),
    ):
        yield case(op("Concat", axis), *map(x, shapes), expected=lambda *a, axis=axis: _joined(a, axis))
    yield case(op("Concat", 0), i("3", 0, 9), i("batch", 0, 9), expected=lambda *a: _joined(a, 0))
    yield from pads()
    yield case(op("StopGradient"), x(), expected=lambda a: a, differentiable=False)
    yield case(op("StopGradient"), x(""), expected=lambda a: a, differentiable=False)
    yield case(op("After"), x(), x("batch"), expected=lambda a, b: a, readable=False)
    yield case(op("After"), x(""), x("2"), expected=lambda a, b: a, readable=False)


def _sizes(a: Any, wanted: tuple[Any, ...]) -> list[int]:
    """``wanted`` with the names that a case uses: batch first, then time."""
    names = {"batch": a.shape[0] if a.ndim else 0, "time": a.shape[1] if a.ndim > 1 else 0}
    return [d if isinstance(d, int) else eval(str(d), {}, names) for d in wanted]


def _expanded(wanted: tuple[Any, ...]) -> Any:
    def expected(a: Any) -> Any:
        sizes = [2 if str(d) == "batch" else d for d in wanted]
        return a + np.zeros(sizes)

    return expected


def _joined(arrays: tuple[Any, ...], axis: int) -> Any:
    """Concatenation by appending lists."""
    moved = [row for a in arrays for row in np.moveaxis(a, axis, 0)]
    return np.moveaxis(np.stack(moved), 0, axis) if moved else np.concatenate(arrays, axis)


END = 2**63 - 1


def slices() -> Iterator[Case]:
    for axis, shape in ((1, "batch 5"), (0, "4"), (-1, "2 batch 3")):
        yield case(
            op("SliceTo", axis, dim("time")),
            x(shape),
            i("1", 3, 4),
            expected=lambda a, n, at=axis: np.moveaxis(np.moveaxis(a, at, 0)[: n[0]], 0, at),
        )
    static: list[tuple[int, int, int]] = [
        (1, 4, 1),
        (0, END, 2),
        (1, 5, 3),
        (-3, -1, 1),
        (-1, -END, -1),
        (3, 0, -1),
        (4, -END, -2),
        (-2, -6, -3),
        (9, 0, -2),
        (-9, 2, 1),
        (2, 2, 1),
        (4, 1, 1),
        (0, -END, -1),
        (-9, -END, -1),
        (0, 99, 1),
    ]
    for start, end, step in static:
        index = slice(max(start, -5), None if step < 0 and end < -99 else end, step)
        taken = list(range(5))[index]
        yield case(
            op("Slice", (start,), (end,), (-1,), (step,)), x("batch 5"), expected=lambda a, taken=taken: a[:, taken]
        )
    for start, end, step in (
        (0, 1, 1),
        (1, END, 1),
        (-1, END, 1),
        (0, -1, 1),
        (1, END, 2),
        (0, END, 3),
        (-1, -END, -1),
        (-1, -END, -2),
        (1, -1, 1),
        (2, -2, 1),
        (5, 9, 1),
    ):
        index = slice(start, None if step < 0 else end, step)
        yield case(
            op("Slice", (start,), (end,), (0,), (step,)),
            x("time 2"),
            expected=lambda a, index=index: a[list(range(len(a)))[index]],
        )
    yield case(
        op("Slice", (1, 0), (END, 2), (1, -1), (2, 1)), x("batch 4 3"), expected=lambda a: a[:, [1, 3]][:, :, [0, 1]]
    )
    yield case(
        op("Slice", (dim("batch"),), (dim("batch+time"),), (0,), (1,)),
        x("batch+time 2"),
        expected=lambda a: a[2:],
        empty=False,
    )
    yield case(op("Slice", (0,), (dim("batch"),), (0,), (1,)), x("batch+time 2"), expected=lambda a: a[: len(a) - 3])
    yield case(op("Slice", (0,), (2,), (0,), (1,)), i("batch 2", 0, 9), expected=lambda a: a[:2])


def pads() -> Iterator[Case]:
    yield case(
        op("Pad", (0, 1, 2, 0)),
        x("batch 3"),
        expected=lambda a: np.block([[np.zeros((len(a), 1)), a], [np.zeros((2, 4))]]),
    )
    yield case(op("Pad", (1, 0)), x("3"), x(""), expected=lambda a, v: np.concatenate([v[None], a]))
    yield case(
        op("Pad", (0, -1, 0, 2)),
        x("batch 3"),
        x(""),
        expected=lambda a, v: np.stack([a[:, 1], a[:, 2], a[:, 0] * 0 + v, a[:, 0] * 0 + v], 1),
    )
    yield case(
        op("Pad", (0, 0, dim("time"), 0)), x("batch 2"), expected=lambda a: np.concatenate([a, np.zeros((3, 2))])
    )
    yield case(
        op("Pad", (0, 2, 0, 1), "reflect"),
        x("batch 4"),
        expected=lambda a: a[:, [2, 1, 0, 1, 2, 3, 2]],
        differentiable=False,
    )
    yield case(
        op("Pad", (0, 2, 0, 1), "edge"), x("batch 3"), expected=lambda a: a[:, [0, 0, 0, 1, 2, 2]], differentiable=False
    )
    yield case(op("Pad", (1, 1)), i("4", 0, 9), expected=lambda a: np.asarray([0, *a, 0]))
