"""The built-in layers by name, of sizes that make sense unless others are given."""

from __future__ import annotations

from collections.abc import Mapping

import lora_graph as lg
from lora_graph.layers.layer import Layer

_POOL = {"kernel_size": 2, "stride": 2, "padding": 0, "dilation": 1}
_GATED = {"input_size": 64, "hidden_size": 128}
_DENSE = {"input_size": 768, "output_size": 768}

DRAWN: dict[str, dict[str, int]] = {
    "DenseLayer": _DENSE,
    "FullyConnectedLayer": _DENSE,
    "LoRALayer": {**_DENSE, "rank": 8},
    "ConvolutionalLayer": {
        "in_channels": 16,
        "out_channels": 32,
        "kernel_size": 3,
        "stride": 1,
        "padding": 1,
        "dilation": 1,
        "groups": 1,
    },
    "EmbeddingLayer": {"count": 1000, "size": 64},
    "LSTMLayer": _GATED,
    "GRULayer": _GATED,
}
"""The layers that begin with random weights, and the sizes that their constructors take."""

FIXED: dict[str, dict[str, int]] = {
    "LayerNormalizationLayer": {"size": 768},
    "BatchNormalizationLayer": {"channels": 32, "spatial_axes": 2},
    "MaxPoolLayer": _POOL,
    "AveragePoolLayer": _POOL,
    "GlobalAveragePoolLayer": {"spatial_axes": 2},
    "FlattenLayer": {"spatial_axes": 2},
}
"""The others."""

NAMES = (*DRAWN, *FIXED)


def built_in(name: str, sizes: Mapping[str, int]) -> Layer:
    """The layer ``name``, with those of ``sizes`` that its constructor takes; random weights are seeded."""
    own = DRAWN.get(name) or FIXED[name]
    chosen = {key: sizes.get(key, size) for key, size in own.items()} | ({"rng": 0} if name in DRAWN else {})
    layer: Layer = getattr(lg, name)(**chosen)
    return layer.eval()
