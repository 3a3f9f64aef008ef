"""The one loss that ONNX has a stable op for; the other losses are plain expressions (train/loss.py)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lora_graph.ir.dims import product
from lora_graph.ir.leaves import constant, size_of
from lora_graph.ir.types import TensorType, meet
from lora_graph.ir.value import Value, apply
from lora_graph.ops.base import Cotangents
from lora_graph.ops.fused import Fused
from lora_graph.ops.gather import GatherElements, ScatterElements, check_indices
from lora_graph.ops.reduce import log_softmax, softmax
from lora_graph.ops.shape import expand, squeeze, unsqueeze, zeros_like


@dataclass(frozen=True, eq=False)
class SoftmaxCrossEntropyLoss(Fused):
    """y = -ln softmax(scores)[label], classes along axis 1, averaged, summed or kept by sample (opset 13).

    ``scores`` is ``[n, classes, …]`` and ``labels`` ``[n, …]`` holds ints in ``0..classes-1``.
    """

    reduction: str = "mean"

    def __post_init__(self) -> None:
        if self.reduction not in ("mean", "sum", "none"):
            raise ValueError(f"{self.name}: reduction is 'mean', 'sum' or 'none', not {self.reduction!r}")

    def infer(self, *operands: TensorType) -> TensorType:
        scores, labels = operands
        check_indices(self.name, labels)
        if scores.rank != labels.rank + 1 or scores.rank < 2 or not scores.is_float:
            raise ValueError(f"{self.name}: labels of {scores} must be ints with one axis less, got {labels}")
        for want, have in zip((scores.shape[0], *scores.shape[2:]), labels.shape, strict=True):
            meet(want, have, f"{self.name} of {scores} and {labels}")
        return scores.with_shape(labels.shape if self.reduction == "none" else ())

    def decompose(self, *operands: Any) -> Any:
        scores, labels = operands
        picked = apply(GatherElements(1), log_softmax(scores, 1), unsqueeze(labels, 1))
        each = -squeeze(picked, 1)
        return each if self.reduction == "none" else each.mean() if self.reduction == "mean" else each.sum()

    def evaluate(self, *operands: Any, out: Any = None) -> Any:
        scores, labels = operands
        classes = scores.shape[1]
        if labels.size and not (labels.min() >= 0 and labels.max() < classes):
            raise ValueError(f"{self.name}: labels must be in 0..{classes - 1}, got {labels.min()}..{labels.max()}")
        return super().evaluate(*operands, out=out)

    def pullback(self, cotangent: Value, result: Value, *operands: Value) -> Cotangents:
        scores, labels = operands
        chosen = unsqueeze(labels, 1)
        none = zeros_like(scores)
        ones = expand(constant(1, scores.dtype), chosen.shape)
        hit = apply(ScatterElements(1), none, chosen, ones)
        if self.reduction == "mean":
            cotangent = cotangent / size_of(product(labels.shape), scores.dtype)
        if self.reduction == "none":
            cotangent = unsqueeze(cotangent, 1)
        return (softmax(scores, 1) - hit) * cotangent, None


def softmax_cross_entropy_loss(scores: Any, labels: Any, reduction: str = "mean") -> Any:
    """-ln softmax(scores)[label] with the classes along axis 1, averaged, summed or (``"none"``) by sample."""
    return apply(SoftmaxCrossEntropyLoss(reduction), scores, labels)
