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
    error: Value = prediction - _like("mse", prediction, target)
    return (error * error).mean()


def cross_entropy(logits: Value, target: Value) -> Value:
    """mean over samples of -ln softmax(logits)[target]; classes along the last axis.

    ``target`` holds class numbers (ints, one axis less than the logits) or distributions (the shape of the logits;
    one-hot, say).
    """
    if target.shape == logits.shape:
        log_probability: Value = target.astype(logits.dtype) * log_softmax(logits)
        return -log_probability.sum(axis=-1).mean()
    if target.shape != logits.shape[:-1] or target.type.is_float:
        raise ValueError(
            f"cross_entropy: targets for logits {logits.type} must be ints {show(logits.shape[:-1])} or distributions "
            f"{show(logits.shape)}, got {target.type}"
        )
    samples = product(target.shape)
    return apply(SoftmaxCrossEntropyLoss(), logits.reshape((samples, logits.shape[-1])), target.reshape((samples,)))


def binary_cross_entropy(logits: Value, target: Value) -> Value:
    """mean of -t ln σ(z) - (1 - t) ln(1 - σ(z)) = softplus(z) - t z for logits z and targets t in [0, 1]."""
    each: Value = softplus(logits) - _like("binary_cross_entropy", logits, target) * logits
    return each.mean()


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


def _like(name: str, prediction: Value, target: Value) -> Value:
    """``target`` in the dtype of ``prediction``; ValueError unless it has its shape."""
    if prediction.shape != target.shape:
        raise ValueError(
            f"{name}: targets must have the shape of the prediction {show(prediction.shape)}, got {show(target.shape)}"
        )
    return target.astype(prediction.dtype)
