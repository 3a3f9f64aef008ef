"""Losses: a prediction and a target to one number."""

from __future__ import annotations

from collections.abc import Callable

from lora_graph import checks
from lora_graph.ir.dims import product
from lora_graph.ir.types import show
from lora_graph.ir.value import Value, apply
from lora_graph.ops.activation import softplus
from lora_graph.ops.loss import SoftmaxCrossEntropyLoss
from lora_graph.ops.reduce import log_softmax

Loss = str | Callable[[Value, Value], Value]


def mse(prediction: Value, target: Value) -> Value:
    """mean (prediction - target)²"""
    _same_shape("mse", prediction, target)
    error = prediction - target
    return (error * error).mean()


def cross_entropy(logits: Value, target: Value) -> Value:
    """mean over samples of -ln softmax(logits)[target]; classes along the last axis.

    ``target`` holds class numbers (one axis less than the logits) or a distribution of the logits' shape (one-hot, say).
    """
    if target.type.is_float:
        _same_shape("cross_entropy", logits, target)
        return -(target * log_softmax(logits)).sum(axis=-1).mean()
    if target.shape != logits.shape[:-1]:
        raise ValueError(
            f"cross_entropy: class numbers for logits {show(logits.shape)} must have shape {show(logits.shape[:-1])}, "
            f"got {show(target.shape)}"
        )
    samples = product(target.shape)
    return apply(SoftmaxCrossEntropyLoss(), logits.reshape((samples, logits.shape[-1])), target.reshape((samples,)))


def binary_cross_entropy(logits: Value, target: Value) -> Value:
    """mean of -t ln σ(z) - (1 - t) ln(1 - σ(z)) = softplus(z) - t z for logits z and targets t in [0, 1]."""
    _same_shape("binary_cross_entropy", logits, target)
    return (softplus(logits) - target * logits).mean()


LOSSES: dict[str, Callable[[Value, Value], Value]] = {
    "mse": mse,
    "cross_entropy": cross_entropy,
    "binary_cross_entropy": binary_cross_entropy,
}
"""The losses by name. All are stable at any logit."""


def loss_of(loss: Loss, prediction: Value, target: Value) -> Value:
    """The loss as a scalar Value; ValueError for an unknown name or a function that gives no scalar."""
    if callable(loss):
        value = loss(prediction, target)
    else:
        value = LOSSES[checks.choice("loss", loss, list(LOSSES))](prediction, target)
    if not isinstance(value, Value) or value.shape or not value.type.is_float:
        raise ValueError(f"loss must give a scalar float Value, got {getattr(value, 'type', value)!s}")
    return value


def _same_shape(name: str, prediction: Value, target: Value) -> None:
    if prediction.shape != target.shape:
        raise ValueError(
            f"{name}: targets must have the shape of the prediction {show(prediction.shape)}, got {show(target.shape)}"
        )
