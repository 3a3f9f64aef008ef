"""Rows of running sums, triangles, squares, piecewise activations and weighted losses."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from lora_graph.ir import dim
from tests.op_cases import Case, b, case, chosen, i, nonzero, x
from tests.op_rows.common import op


def coverage() -> Iterator[Case]:
    yield from running_sums()
    yield from triangles()
    yield from squares()
    yield from activations()
    yield from root_mean_squares()
    yield from likelihoods()
    yield from sums_of_products()
    yield from rotations()
    yield from attentions()


def running_sums() -> Iterator[Case]:
    def summed(a: Any, axis: int, exclusive: int, reverse: int) -> Any:
        rows = np.moveaxis(a, axis, 0)
        counted = np.zeros_like(rows)
        for at in range(len(rows)):
            part = rows[at + exclusive :] if reverse else rows[: at + 1 - exclusive]
            counted[at] = sum(part, np.zeros(rows.shape[1:], a.dtype))
        return np.moveaxis(counted, 0, axis)

    for axis, exclusive, reverse, shape in (
        (0, 0, 0, "batch 3"),
        (1, 1, 0, "batch 4"),
        (-1, 0, 1, "batch 2 time"),
        (-2, 1, 1, "batch 3 2"),
        (0, 0, 0, "4"),
    ):
        formula = lambda a, s=(axis, exclusive, reverse): summed(a, *s)  # noqa: E731
        yield case(op("CumSum", axis, exclusive, reverse), x(shape), expected=formula)
    yield case(op("CumSum", 0, 1, 0), i("4", -3, 9), expected=lambda a: summed(a, 0, 1, 0))


def triangles() -> Iterator[Case]:
    for upper, k, shape in (
        (1, 0, "3 4"),
        (0, 0, "batch 3 3"),
        (1, -1, "4 3"),
        (0, 2, "batch 2 4"),
        (1, 9, "2 batch"),
        (1, dim("time-1"), "4 4"),
    ):

        def kept(a: Any, upper: int = upper, k: Any = k) -> Any:
            at = 2 if k == dim("time-1") else k
            rows, columns = np.indices(a.shape[-2:])
            return a * ((columns - rows >= at) if upper else (columns - rows <= at))

        yield case(op("Trilu", upper, k), x(shape), expected=kept)
    yield case(op("Trilu"), i("3 3", 0, 9), expected=lambda a: np.asarray([[*[0] * r, *a[r, r:]] for r in range(3)]))


def squares() -> Iterator[Case]:
    for axes, keep, shape in ((None, 0, "batch 3"), ((1,), 1, "batch 3"), ((-1, 0), 0, "2 batch 2"), ((0,), 0, "3")):
        kept = {"axis": axes, "keepdims": bool(keep)}
        total = lambda a, kept=kept: np.sum(a**2, **kept)  # noqa: E731
        yield case(op("ReduceSumSquare", axes, keep), x(shape), expected=total)
        yield case(
            op("ReduceVariance", axes, keep), x(shape), expected=lambda a, kept=kept: np.var(a, **kept), empty=False
        )
        root = lambda a, kept=kept: np.sqrt(np.sum(a**2, **kept))  # noqa: E731
        yield case(op("ReduceL2", axes, keep), x(shape, nonzero), expected=root)
    yield case(
        op("ReduceL2", (1,), 1), x("2 2", chosen(0.0)), expected=lambda a: a[:, :1], differentiable=False, onnx=True
    )


def activations() -> Iterator[Case]:
    for alpha, beta in ((0.2, 0.5), (0.5, 0.25)):
        yield case(
            op("HardSigmoid", alpha, beta),
            x("batch 3", chosen(-4.0, -0.25, 0.3, 4.0, 1.0, -9.0)),
            expected=lambda a, s=(alpha, beta): np.minimum(1, np.maximum(0, s[0] * a + s[1])),
        )
    yield case(
        op("HardSwish"),
        x("batch 4", chosen(-4.0, -2.0, -0.25, 0.5, 2.5, 4.0)),
        expected=lambda a: a * np.minimum(1, np.maximum(0, a / 6 + 0.5)),
    )
    for alpha, gamma in ((1.6732632, 1.050701), (0.5, 2.0)):
        yield case(
            op("Selu", alpha, gamma),
            x("batch 3", nonzero),
            expected=lambda a, s=(alpha, gamma): s[1] * np.where(a > 0, a, s[0] * np.expm1(np.minimum(a, 0))),
        )
    for shape, slope in (("batch 3", "3"), ("batch 3", "batch 3"), ("batch 2 time", "2 1"), ("3", "1"), ("3", "")):
        yield case(
            op("PRelu"), x(shape, nonzero), x(slope), expected=lambda a, s: np.maximum(a, 0) + s * np.minimum(a, 0)
        )


def root_mean_squares() -> Iterator[Case]:
    for axis, epsilon, shape, scale in (
        (-1, 1e-5, "batch 4", "4"),
        (1, 0.5, "batch 2 3", "2 3"),
        (-2, 1e-5, "batch 2 3", "3"),
        (0, 1e-5, "4", ""),
    ):

        def normalized(a: Any, w: Any, axis: int = axis, epsilon: float = epsilon) -> Any:
            axes = tuple(range(axis % a.ndim, a.ndim))
            return w * a / np.sqrt(np.mean(a**2, axes, keepdims=True) + epsilon)

        yield case(op("RMSNormalization", axis, epsilon), x(shape), x(scale), expected=normalized)


def likelihoods() -> Iterator[Case]:
    for reduction in ("mean", "sum", "none"):
        for ignored in (None, 1, -1):

            def loss(a: Any, n: Any, w: Any = None, reduction: str = reduction, ignored: Any = ignored) -> Any:
                weight = np.ones(a.shape[1]) if w is None else w
                each, weights = np.zeros(n.shape), np.zeros(n.shape)
                for at in np.ndindex(n.shape):
                    if n[at] != ignored:
                        weights[at] = weight[n[at]]
                        each[at] = -weights[at] * a[at[0], n[at], *at[1:]]
                if reduction == "mean":
                    return each.sum() / weights.sum()
                return each.sum() if reduction == "sum" else each

            for shape, labels in (("batch 4", "batch"), ("batch 4 3", "batch 3")):
                instance = op("NegativeLogLikelihoodLoss", reduction, ignored)
                flags = {"empty": reduction != "mean"}
                yield case(instance, x(shape), i(labels, 0, 4), expected=loss, **flags)
                yield case(instance, x(shape), i(labels, 0, 4), x("4", nonzero), expected=loss, **flags)


def sums_of_products() -> Iterator[Case]:
    for equation, *shapes in (
        ("ij,jk->ik", "batch 3", "3 2"),
        ("bij,bjk->bik", "batch 2 time", "batch time 2"),
        ("ij->ji", "batch 3"),
        ("ij->j", "batch 3"),
        ("ij->", "batch 3"),
        ("ii->i", "3 3"),
        ("iij->j", "3 3 2"),
        ("i,j", "3", "batch"),
        ("ab, bc , cd", "batch 3", "3 2", "2 time"),
        ("...ij,...jk->...ik", "batch 2 3", "1 3 2"),
        ("...i,...i->...", "1 batch 3", "2 1 3"),
        ("bhi,bhj->bhij", "batch 2 3", "batch 2 time"),
    ):
        yield case(op("Einsum", equation), *map(x, shapes), expected=lambda *a, e=equation: np.einsum(e, *a))
    yield case(op("Einsum", "ij,j->i"), i("batch 3", 0, 5), i("3", 0, 5), expected=lambda a, v: (a * v).sum(1))


def rotations() -> Iterator[Case]:
    def rotated(a: Any, cos: Any, sin: Any, n: Any = None, interleaved: int = 0, heads: int = 0) -> Any:
        turned = (a.reshape(*a.shape[:2], heads, a.shape[2] // heads) if heads else a.transpose(0, 2, 1, 3)).copy()
        cos, sin = (table[:, :, None] if n is None else table[n][:, :, None] for table in (cos, sin))
        pairs = cos.shape[-1]
        for j in range(pairs):
            first, second = (2 * j, 2 * j + 1) if interleaved else (j, j + pairs)
            u, v = turned[..., first].copy(), turned[..., second].copy()
            turned[..., first] = u * cos[..., j] - v * sin[..., j]
            turned[..., second] = u * sin[..., j] + v * cos[..., j]
        return turned.reshape(a.shape) if heads else turned.transpose(0, 2, 1, 3)

    for interleaved, heads, part, shape, table in (
        (0, 0, 0, "batch 2 time 4", "2"),
        (1, 0, 0, "batch 2 time 4", "2"),
        (0, 2, 0, "batch time 8", "2"),
        (1, 2, 2, "batch time 8", "1"),
        (0, 0, 2, "batch 3 time 4", "1"),
    ):
        formula = lambda *a, s=(interleaved, heads): rotated(*a, interleaved=s[0], heads=s[1])  # noqa: E731
        instance, rows = op("RotaryEmbedding", interleaved, heads, part), x(f"batch time {table}")
        yield case(instance, x(shape), rows, rows, expected=formula)
        rows = x(f"5 {table}")
        yield case(instance, x(shape), rows, rows, i("batch time", 0, 5), expected=formula)


def attentions() -> Iterator[Case]:
    def attended(
        q: Any, k: Any, v: Any, m: Any = None, heads: Any = (0, 0), causal: int = 0, scale: Any = None, cap: float = 0.0
    ) -> Any:
        if q.ndim == 3:
            sizes = (heads[0], heads[1], heads[1])
            q, k, v = (
                t.reshape(*t.shape[:2], n, t.shape[2] // n).transpose(0, 2, 1, 3)
                for t, n in zip((q, k, v), sizes, strict=True)
            )
        y = np.zeros((*q.shape[:3], v.shape[3]))
        for at, h, r in np.ndindex(q.shape[:3]):
            keys, values = (t[at, h // (q.shape[1] // k.shape[1])] for t in (k, v))
            scores = keys @ q[at, h, r] * (1 / np.sqrt(q.shape[3]) if scale is None else scale)
            scores = cap * np.tanh(scores / cap) if cap else scores
            if m is not None:
                own = np.broadcast_to(m, (*q.shape[:3], len(keys)))[at, h, r]
                scores = np.where(own, scores, -np.inf) if own.dtype == bool else scores + own
            scores = np.where(causal * np.arange(len(keys)) > r, -np.inf, scores)
            if np.isfinite(scores).any():
                weights = np.exp(scores - scores.max())
                y[at, h, r] = weights @ values / weights.sum()
        return y.transpose(0, 2, 1, 3).reshape(len(y), y.shape[2], y.shape[1] * y.shape[3]) if heads[0] else y

    four = [x("batch 2 time 3"), x("batch 2 4 3"), x("batch 2 4 2")]
    for causal, scale, cap, mask in (
        (0, None, 0.0, []),
        (1, None, 0.0, []),
        (0, 0.25, 2.0, [x("time 4")]),
        (1, None, 0.5, [x("batch 1 time 4")]),
        (0, None, 0.0, [b("2 time 4")]),
        (1, None, 0.0, [b("batch 2 time 4")]),
    ):
        formula = lambda *a, s=(causal, scale, cap): attended(*a, causal=s[0], scale=s[1], cap=s[2])  # noqa: E731
        instance = op("Attention", causal, 0, 0, scale, cap)
        yield case(instance, *four, *mask, expected=formula)
    shared = [x("batch 4 2 3"), x("batch 2 time 3"), x("batch 2 time 2")]
    yield case(op("Attention"), *shared, expected=attended)
    three = [x("batch time 8"), x("batch 3 4"), x("batch 3 6")]
    yield case(op("Attention", 1, 2, 4), *three, expected=lambda *a: attended(*a, heads=(4, 2), causal=1))
