"""Losses: a prediction and a target to one number, in which not all need count alike."""

from __future__ import annotations

from collections.abc import Callable
from inspect import signature

import numpy as np

from lora_graph import checks
from lora_graph.ir.dims import product
from lora_graph.ir.types import show
from lora_graph.ir.value import Value, apply
from lora_graph.ops.activation import softplus
from lora_graph.ops.logic import Not
from lora_graph.ops.loss import SoftmaxCrossEntropyLoss
from lora_graph.ops.reduce import log_softmax
from lora_graph.ops.select import where
from lora_graph.ops.shape import unsqueeze

Loss = str | Callable[..., Value]
"""The name of a loss, or a function of prediction and target, and of weights where the data has them."""

IGNORED = -100
"""The class number of what :func:`cross_entropy` leaves out, as in PyTorch."""


def mse(prediction: Value, target: Value, weights: Value | None = None) -> Value:
    """mean (prediction - target)²"""
    error: Value = prediction - _like("mse", prediction, target, weights)
    return mean(error * error, weights)


def cross_entropy(logits: Value, target: Value, weights: Value | None = None) -> Value:
    """mean of -ln softmax(logits)[target]; classes along the last axis.

    ``target`` holds class numbers (ints, one axis less than the logits), -100 for what is left out of the mean, or
    distributions (the shape of the logits; one-hot, say).
    """
    if target.shape == logits.shape:
        log_probability: Value = _like("cross_entropy", logits, target, weights) * log_softmax(logits)
        return mean(-log_probability.sum(axis=-1), weights)
    if target.shape != logits.shape[:-1] or target.type.is_float:
        raise ValueError(
            f"cross_entropy: targets for logits {logits.type} must be ints {show(logits.shape[:-1])} or distributions "
            f"{show(logits.shape)}, got {target.type}"
        )
    counted: Value = apply(Not(), target.equal(IGNORED))
    if weights is not None:
        counted = counted.astype(weights.dtype) * _stretched("cross_entropy", weights, target)
    samples = product(target.shape)
    chosen = where(counted.astype(np.bool_), target, 0).reshape((samples,))
    flat = logits.reshape((samples, logits.shape[-1]))
    losses: Value = apply(SoftmaxCrossEntropyLoss("none"), flat, chosen)
    return mean(losses.reshape(target.shape), counted)


def binary_cross_entropy(logits: Value, target: Value, weights: Value | None = None) -> Value:
    """mean of -t ln σ(z) - (1 - t) ln(1 - σ(z)) = softplus(z) - t z for logits z and targets t in [0, 1]."""
    target = _like("binary_cross_entropy", logits, target, weights)
    return mean(softplus(logits) - target * logits, weights)


LOSSES: dict[str, Callable[..., Value]] = {
    "mse": mse,
    "cross_entropy": cross_entropy,
    "binary_cross_entropy": binary_cross_entropy,
}
"""The losses by name. All are stable at any logit."""


def mean(losses: Value, weights: Value | None = None) -> Value:
    """Σ w l / Σ w over all elements; 0 where nothing weighs anything. The weights lack axes that they are equal along.

    ValueError unless the axes that they have are the first of ``losses``.
    """
    if weights is None:
        return losses.mean()
    if weights.shape != losses.shape[: weights.rank]:
        raise ValueError(
            f"weights must have the first axes of the losses {show(losses.shape)}, got {show(weights.shape)}"
        )
    if weights.rank < losses.rank:
        losses = losses.mean(axis=tuple(range(weights.rank, losses.rank)))
    weights = weights.astype(losses.dtype)
    total = weights.sum()
    averaged: Value = (losses * weights).sum() / where(total.equal(0), 1, total)
    return averaged


def loss_of(loss: Loss, prediction: Value, target: Value, weights: Value | None = None) -> Value:
    """The loss as a scalar Value; ValueError for an unknown name or a function that gives no scalar."""
    given = (prediction, target) if weights is None else (prediction, target, weights)
    if callable(loss):
        try:
            signature(loss).bind(*given)
        except TypeError as error:
            named = "prediction, target" if weights is None else "prediction, target, weights"
            raise TypeError(f"loss must be a function of ({named}) for this data: {error}") from error
        value = loss(*given)
    else:
        value = LOSSES[checks.choice("loss", loss, list(LOSSES))](*given)
    if not isinstance(value, Value) or value.shape or not value.type.is_float:
        raise ValueError(f"loss must give a scalar float Value, got {getattr(value, 'type', value)!s}")
    return value


def _like(name: str, prediction: Value, target: Value, weights: Value | None) -> Value:
    """``target`` in the dtype of ``prediction``, 0 where it weighs nothing; ValueError unless it has its shape."""
    if prediction.shape != target.shape:
        raise ValueError(
            f"{name}: targets must have the shape of the prediction {show(prediction.shape)}, got {show(target.shape)}"
        )
    target = target.astype(prediction.dtype)
    # what weighs nothing may be anything, NaN included
    return target if weights is None else where(_stretched(name, weights, target).astype(np.bool_), target, 0)


def _stretched(name: str, weights: Value, target: Value) -> Value:
    """``weights`` with an axis of size 1 for each that ``target`` has and they lack."""
    if weights.shape != target.shape[: weights.rank]:
        raise ValueError(
            f"{name}: weights must have the first axes of the targets {show(target.shape)}, got {show(weights.shape)}"
        )
    return unsqueeze(weights, tuple(range(weights.rank, target.rank))) if weights.rank < target.rank else weights
