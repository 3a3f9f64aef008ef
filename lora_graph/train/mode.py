"""Training mode for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from lora_graph.layers.layer import Layer


@contextmanager
def training_mode(model: Layer) -> Iterator[None]:
    """``model`` in training mode; afterwards, also after an error, every layer has the mode it had."""
    modes = {layer: layer.is_training for layer in model.places()}
    model.set_training(True)
    try:
        yield
    finally:
        for layer, mode in modes.items():
            layer._training = mode
