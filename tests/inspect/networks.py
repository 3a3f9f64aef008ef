"""Networks of every kind of layer, as ONNX models, for diffs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx

import lora_graph as lg
from tests.onnx.forms.models import randomized
from tests.train.transformer import Encoder


def mlp(rng: np.random.Generator) -> lg.Layer:
    return lg.Sequential([lg.DenseLayer(6, 8, "gelu", rng=rng), lg.LayerNormalizationLayer(8), *_dense(8, rng)])


def cnn(rng: np.random.Generator) -> lg.Layer:
    first = lg.ConvolutionalLayer(3, 4, 3, padding=1, rng=rng)
    second = lg.ConvolutionalLayer(4, 6, 3, groups=2, activation="relu", rng=rng)
    pools = lg.MaxPoolLayer(2), lg.GlobalAveragePoolLayer()
    return lg.Sequential([first, lg.BatchNormalizationLayer(4), second, *pools, *_dense(6, rng)])


def lstm(rng: np.random.Generator) -> lg.Layer:
    return lg.Sequential([lg.LSTMLayer(5, 4, rng=rng), lg.GRULayer(4, 4, rng=rng), *_dense(4, rng)])


def transformer(rng: np.random.Generator) -> lg.Layer:
    return Encoder(int(rng.integers(1000)))


def _dense(size: int, rng: np.random.Generator) -> list[lg.Layer]:
    return [lg.DenseLayer(size, size, "tanh", rng=rng), lg.FullyConnectedLayer(size, 3, rng=rng)]


NETWORKS: dict[str, Callable[[np.random.Generator], lg.Layer]] = {
    "mlp": mlp,
    "cnn": cnn,
    "lstm": lstm,
    "transformer": transformer,
}


def exported(name: str, seed: int = 0) -> onnx.ModelProto:
    return lg.export_onnx(NETWORKS[name](np.random.default_rng(seed)))


def adapted(base: lg.Layer, family: str, weights: list[str], rank: int, seed: int = 0, **options: Any) -> Any:
    """``base`` with a trained-looking adapter at ``weights``."""
    rng = np.random.default_rng(seed)
    return randomized(lg.adapt(base, family, targets=weights, rank=rank, alpha=3, rng=rng, **options), rng)
