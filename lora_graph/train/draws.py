"""What is drawn for a training step: masks, ranks."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np

from lora_graph.ir.types import Array
from lora_graph.layers.trace import Draw

Rng = Callable[[Draw], np.random.Generator]


def own_rng(draw: Draw) -> np.random.Generator:
    """The generator of the layer that draws."""
    return draw.layer.rng


def seeded(seed: int, step: int) -> Rng:
    """Generators for one step that depend on the seed and the step alone.

    A draw goes on from one micro-batch to the next; draws that share a name see equal numbers.
    """
    own: dict[str, np.random.Generator] = {}

    def new(name: str) -> np.random.Generator:
        return np.random.default_rng([seed, step, zlib.crc32(name.encode())])

    def rng(draw: Draw) -> np.random.Generator:
        if draw.shared is not None:
            return new(draw.shared)
        if draw.label not in own:
            own[draw.label] = new(draw.label)
        return own[draw.label]

    return rng


def draw_all(
    draws: Sequence[Draw], binding: Mapping[str, int], rng: Rng, steady: Collection[str], kept: dict[str, Array]
) -> dict[str, Array]:
    """The arrays of all draws by label. Those in ``steady`` are drawn once and then taken from ``kept``."""
    drawn = {}
    for draw in draws:
        if draw.label in kept:
            drawn[draw.label] = kept[draw.label]
            continue
        drawn[draw.label] = draw.sample(rng(draw), binding)
        if draw.label in steady:
            kept[draw.label] = drawn[draw.label]
    return drawn
