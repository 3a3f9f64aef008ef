"""Softmax over scores of which all may be masked."""

from __future__ import annotations

from typing import Any

import numpy as np

from lora_graph.ir.value import Value, apply
from lora_graph.ops.base import Cotangents
from lora_graph.ops.fused import Fused
from lora_graph.ops.logic import IsNaN
from lora_graph.ops.reduce import Distribution, Softmax
from lora_graph.ops.select import where


class SafeSoftmax(Distribution, Fused):
    """y = softmax(x) along ``axis``, but 0 where that is NaN: where all of x is -∞, or some of it NaN or ∞.

    So PyTorch spells attention whose queries may see nothing. ONNX has no such op: it is written as what it stands for.
    The derivative is 0, too, where y is.
    """

    def decompose(self, *operands: Any) -> Any:
        p = apply(Softmax(self.axis), *operands)
        return where(apply(IsNaN(), p), 0.0, p)

    def evaluate(self, *operands: Any, out: Any = None) -> Any:
        (x,) = operands
        with np.errstate(invalid="ignore"):
            y = Softmax(self.axis).evaluate(x, out=out)
        if y.size:
            lost = np.isnan(y.take([0], self.axis))  # along the axis all of a softmax is NaN, or nothing
            if lost.any():
                np.copyto(y, 0, where=lost)
        return y

    def pullback(self, cotangent: Value, result: Value, *operands: Value) -> Cotangents:
        return Softmax(self.axis).pullback(cotangent, result, *operands)


def safe_softmax(x: Any, axis: int = -1) -> Any:
    """eˣ / Σ eˣ along ``axis``, but 0 where that is NaN: where all of x is -∞, or some of it NaN or ∞."""
    return apply(SafeSoftmax(axis), x)
