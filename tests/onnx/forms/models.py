"""Models with adapters that change what they compute, for the tests of forms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import lora_graph as lg


def randomized(model: lg.Layer, rng: np.random.Generator) -> Any:
    """``model`` in evaluation mode with trained-looking numbers in what trains."""
    model.set_parameters(rng.normal(0, 0.5, model.parameter_count))
    return model.eval()


def dense(rng: np.random.Generator) -> lg.Layer:
    return lg.Sequential([lg.DenseLayer(12, 16, "relu", rng=rng), lg.FullyConnectedLayer(16, 10, rng=rng)])


def convolutional(rng: np.random.Generator, groups: int = 1) -> lg.Layer:
    first = lg.ConvolutionalLayer(4, 8, 3, padding=1, groups=groups, activation="relu", rng=rng)
    return lg.Sequential([first, lg.ConvolutionalLayer(8, 6, 3, stride=2, rng=rng)])


def embedding(rng: np.random.Generator) -> lg.Layer:
    return lg.Sequential([lg.EmbeddingLayer(11, 12, rng=rng), lg.DenseLayer(12, 5, rng=rng)])


def numbers(rng: np.random.Generator, batch: int) -> Any:
    return rng.normal(size=(batch, 12)).astype(np.float32)


def images(rng: np.random.Generator, batch: int) -> Any:
    return rng.normal(size=(batch, 4, 7, 7)).astype(np.float32)


def tokens(rng: np.random.Generator, batch: int) -> Any:
    return rng.integers(0, 11, (batch, 3))


Base = tuple[Callable[[np.random.Generator], lg.Layer], Callable[[np.random.Generator, int], Any], Any]

BASES: dict[str, Base] = {
    "dense": (dense, numbers, None),
    "convolution": (convolutional, images, None),
    "grouped convolution": (lambda rng: convolutional(rng, 2), images, None),
    "embedding": (embedding, tokens, ("batch", "time")),
}
"""For each kind of weight a base, samples for it, and the shape of its input."""

FAMILIES: dict[str, dict[str, Any]] = {
    "lora": {},
    "dylora": {"active_ranks": [1, 2]},
    "lora_drop": {"dropout_rate": 0.25},
    "lokr": {},
}


def adapted(base: lg.Layer, family: str, rng: np.random.Generator, rank: int = 2) -> lg.AdaptedModel:
    """``base`` with an adapter of a scale that is not 1 at every weight."""
    options = FAMILIES[family]
    model: lg.AdaptedModel = randomized(
        lg.adapt(base, family, targets="*", rank=rank, alpha=3, rng=rng, **options), rng
    )
    return model
