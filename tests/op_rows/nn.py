"""Rows of normalizations and losses."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import scipy.special

from tests.op_cases import Case, case, i, x
from tests.op_rows.common import op


def nn() -> Iterator[Case]:
    for axis, shape, scale in ((-1, "batch 4", "4"), (1, "batch 2 3", "2 3"), (-1, "batch 2 3", "3"), (0, "4", "4")):

        def normalized(a: Any, w: Any, c: Any = 0.0, axis: int = axis, epsilon: float = 1e-5) -> Any:
            axes = tuple(range(axis % a.ndim, a.ndim))
            return (a - a.mean(axes, keepdims=True)) / np.sqrt(a.var(axes, keepdims=True) + epsilon) * w + c

        yield case(op("LayerNormalization", axis), x(shape), x(scale), expected=normalized)
        yield case(op("LayerNormalization", axis), x(shape), x(scale), x(scale), expected=normalized)
    yield case(
        op("LayerNormalization", -1, 0.5), x("batch 4"), x("4"), expected=lambda a, w: normalized(a, w, 0.0, -1, 0.5)
    )
    for reduction in ("mean", "sum", "none"):
        for shape, labels in (("batch 4", "batch"), ("batch 4 3", "batch 3"), ("1 4", "1")):

            def loss(a: Any, n: Any, reduction: str = reduction) -> Any:
                chosen = np.moveaxis(a, 1, -1)[np.eye(a.shape[1], dtype=bool)[n]].reshape(n.shape)
                each = scipy.special.logsumexp(a, 1) - chosen
                return {"mean": np.mean, "sum": np.sum, "none": np.asarray}[reduction](each)

            yield case(
                op("SoftmaxCrossEntropyLoss", reduction),
                x(shape),
                i(labels, 0, 4),
                expected=loss,
                empty=reduction != "mean",
            )
