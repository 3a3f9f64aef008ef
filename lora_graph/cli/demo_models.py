"""The networks that the demo trains, each on the same digits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import lora_graph as lg
from lora_graph.data import SIDE
from lora_graph.ir.types import Array

CLASSES = 10


@dataclass(frozen=True)
class DemoModel:
    """A network, and the ranks that suit its weights."""

    described: str
    shape: tuple[int, ...]
    """How it takes an image of 64 pixels."""
    build: Callable[[int], lg.Sequential]
    """The network for a seed."""
    ranks: tuple[int, ...]
    """The ranks of DyLoRA, whose weights are as wide as the largest."""
    rank: int = 2
    kronecker: int = 16
    rate: float = 1e-3
    """The learning rate that suits all of it."""

    def images(self, flat: Array) -> Array:
        """Images ``[n, 64]`` as the network takes them."""
        return flat.reshape(len(flat), *self.shape)


def mlp(seed: int) -> lg.Sequential:
    sizes = [(SIDE * SIDE, 128, "relu"), (128, 128, "relu"), (128, CLASSES, None)]
    return lg.Sequential([lg.DenseLayer(*size, rng=seed + i) for i, size in enumerate(sizes)])


def cnn(seed: int) -> lg.Sequential:
    return lg.Sequential(
        [
            lg.ConvolutionalLayer(1, 16, 3, padding=1, activation="relu", rng=seed),
            lg.MaxPoolLayer(2),
            lg.ConvolutionalLayer(16, 32, 3, padding=1, activation="relu", rng=seed + 1),
            lg.MaxPoolLayer(2),
            lg.FlattenLayer(),
            lg.DenseLayer(32 * (SIDE // 4) ** 2, CLASSES, rng=seed + 2),
        ],
        input_shape=(1, SIDE, SIDE),
    )


def lstm(seed: int) -> lg.Sequential:
    return lg.Sequential(
        [lg.LSTMLayer(SIDE, 64, return_sequences=False, rng=seed), lg.DenseLayer(64, CLASSES, rng=seed + 1)]
    )


MODELS = {
    "mlp": DemoModel("three dense layers", (SIDE * SIDE,), mlp, (1, 2, 4, 8)),
    "cnn": DemoModel("two convolutions and a dense layer", (1, SIDE, SIDE), cnn, (1, 2, 4, 8)),
    "lstm": DemoModel("an LSTM that reads the rows of an image", (SIDE, SIDE), lstm, (1, 2, 4), rate=5e-3),
}
