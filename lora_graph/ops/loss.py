"""The losses of classes that ONNX has ops for; the other losses are plain expressions (train/loss.py)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lora_graph.ir.dims import product
from lora_graph.ir.leaves import constant, size_of
from lora_graph.ir.op import NodeView
from lora_graph.ir.types import Array, TensorType, meet
from lora_graph.ir.value import Value, apply
from lora_graph.ops.base import Cotangents
from lora_graph.ops.fused import Fused
from lora_graph.ops.gather import Gather, GatherElements, ScatterElements, check_indices
from lora_graph.ops.logic import Not
from lora_graph.ops.reduce import log_softmax
from lora_graph.ops.select import where
from lora_graph.ops.shape import expand, squeeze, unsqueeze


@dataclass(frozen=True, eq=False)
class SoftmaxCrossEntropyLoss(Fused):
    """y = -ln softmax(scores)[label], classes along axis 1, averaged, summed or kept by sample (opset 13).

    ``scores`` is ``[n, classes, …]`` and ``labels`` ``[n, …]`` holds ints in ``0..classes-1``.
    """

    reduction: str = "mean"

    def __post_init__(self) -> None:
        check_mean(self.name, self.reduction)

    def infer(self, *operands: TensorType) -> TensorType:
        scores, labels = operands
        check_labels(self.name, scores, labels)
        return scores.with_shape(labels.shape if self.reduction == "none" else ())

    def decompose(self, *operands: Any) -> Any:
        scores, labels = operands
        picked = apply(GatherElements(1), log_softmax(scores, 1), unsqueeze(labels, 1))
        each = -squeeze(picked, 1)
        return each if self.reduction == "none" else each.mean() if self.reduction == "mean" else each.sum()

    def evaluate(self, *operands: Any, out: Any = None) -> Any:
        scores, labels = operands
        check_range(self.name, labels, scores.shape[1])
        return super().evaluate(*operands, out=out)

    def pullback(self, cotangent: Value, result: Value, *operands: Value) -> Cotangents:
        scores, labels = operands
        chosen = unsqueeze(labels, 1)
        less = expand(constant(-1, scores.dtype), chosen.shape)
        away = apply(ScatterElements(1, "add"), log_softmax(scores, 1).exp(), chosen, less)
        if self.reduction == "mean":
            cotangent = cotangent / size_of(product(labels.shape), scores.dtype)
        if self.reduction == "none":
            cotangent = unsqueeze(cotangent, 1)
        return away * cotangent, None

    @classmethod
    def read(cls, node: NodeView) -> Value | tuple[Value, ...]:
        """With weights or an ignored label it is the NegativeLogLikelihoodLoss of log-probabilities, as in ONNX."""
        scores, *rest = node.operands
        reduction, ignored = node.attributes.get("reduction", "mean"), node.attributes.get("ignore_index")
        log_probabilities: Value = log_softmax(scores, 1)
        if ignored is None and len([operand for operand in rest if operand is not None]) == 1:
            return apply(cls(reduction), scores, *rest), log_probabilities
        given = [operand for operand in rest if operand is not None]
        return apply(NegativeLogLikelihoodLoss(reduction, ignored), log_probabilities, *given), log_probabilities


@dataclass(frozen=True, eq=False)
class NegativeLogLikelihoodLoss(Fused):
    """y = -weight[label] · x[label] for log-probabilities x, classes along axis 1 (opset 13).

    ``x`` is ``[n, classes, …]``, ``labels`` is ``[n, …]`` with ints in ``0..classes-1`` and ``weight``, 1 if there is
    none, ``[classes]``. Samples with the label ``ignore_index`` weigh nothing. By ``reduction`` they are averaged (the
    sum is divided by that of the weights), summed or kept.
    """

    reduction: str = "mean"
    ignore_index: int | None = None

    def __post_init__(self) -> None:
        check_mean(self.name, self.reduction)

    def infer(self, *operands: TensorType) -> TensorType:
        x, labels, *weight = operands
        check_labels(self.name, x, labels)
        for given in weight:
            if given.dtype != x.dtype or given.rank != 1:
                raise ValueError(f"{self.name}: the weights of {x} must be one for each class, got {given}")
            meet(x.shape[1], given.shape[0], f"{self.name}: the weights {given} for {x}")
        return x.with_shape(labels.shape if self.reduction == "none" else ())

    def decompose(self, *operands: Any) -> Any:
        x, labels, *weight = operands
        kept = None if self.ignore_index is None else apply(Not(), labels.equal(self.ignore_index))
        chosen = labels if kept is None else where(kept, labels, 0)
        each = -squeeze(apply(GatherElements(1), x, unsqueeze(chosen, 1)), 1)
        weights = apply(Gather(0), weight[0], chosen) if weight else None
        if weights is not None:
            each = each * weights
        if kept is not None:
            each = where(kept, each, 0)
            weights = kept.astype(x.dtype) if weights is None else where(kept, weights, 0)
        if self.reduction != "mean":
            return each if self.reduction == "none" else each.sum()
        return each.mean() if weights is None else each.sum() / weights.sum()

    def evaluate(self, *operands: Any, out: Any = None) -> Any:
        labels, classes = operands[1], operands[0].shape[1]
        counted = labels if self.ignore_index is None else labels[labels != self.ignore_index]
        check_range(self.name, counted, classes)
        return super().evaluate(*operands, out=out)


def check_mean(name: str, reduction: str) -> None:
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"{name}: reduction is 'mean', 'sum' or 'none', not {reduction!r}")


def check_labels(name: str, scores: TensorType, labels: TensorType) -> None:
    check_indices(name, labels)
    if scores.rank != labels.rank + 1 or scores.rank < 2 or not scores.is_float:
        raise ValueError(f"{name}: labels of {scores} must be ints with one axis less, got {labels}")
    for want, have in zip((scores.shape[0], *scores.shape[2:]), labels.shape, strict=True):
        meet(want, have, f"{name} of {scores} and {labels}")


def check_range(name: str, labels: Array, classes: int) -> None:
    if labels.size and not (labels.min() >= 0 and labels.max() < classes):
        raise ValueError(f"{name}: labels must be in 0..{classes - 1}, got {labels.min()}..{labels.max()}")


def softmax_cross_entropy_loss(scores: Any, labels: Any, reduction: str = "mean") -> Any:
    """-ln softmax(scores)[label] with the classes along axis 1, averaged, summed or (``"none"``) by sample."""
    return apply(SoftmaxCrossEntropyLoss(reduction), scores, labels)


def negative_log_likelihood_loss(
    x: Any, labels: Any, weight: Any = None, reduction: str = "mean", ignore_index: int | None = None
) -> Any:
    """-weight[label] · x[label] for log-probabilities with the classes along axis 1, averaged, summed or by sample."""
    op = NegativeLogLikelihoodLoss(reduction, ignore_index)
    return apply(op, x, labels) if weight is None else apply(op, x, labels, weight)
