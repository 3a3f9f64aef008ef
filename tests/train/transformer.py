"""A small encoder of masked sequences, to train."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.special import softmax

import lora_graph as lg
from tests.train.models import Array

TOKENS, WIDTH, CLASSES, LAYERS = 11, 8, 3, 2
SHAPES = {"query": (8, 8), "key": (8, 8), "value": (8, 8), "out": (8, 8), "up": (8, 16), "down": (16, 8)}


class Encoder(lg.Layer):
    """logits = mean over what is not masked of the hidden states, times head; what is masked is never attended to."""

    any_rank = False

    def __init__(self, seed: int = 0):
        super().__init__(input_shape={"ids": ("time",), "mask": ("time",)}, output_shape=(CLASSES,), dtype=np.float64)
        rng = np.random.default_rng(seed)
        self.add_parameter("table", rng.standard_normal((TOKENS, WIDTH)))
        for layer in range(LAYERS):
            for name, shape in SHAPES.items():
                self.add_parameter(f"{name}_{layer}", rng.standard_normal(shape) / shape[0] ** 0.5)
        self.add_parameter("head", rng.standard_normal((WIDTH, CLASSES)))

    @property
    def inputs(self) -> dict[str, lg.TensorType]:
        return {"ids": lg.tensor("int64", ("batch", "time")), "mask": lg.tensor("bool", ("batch", "time"))}

    def build(self, ctx: lg.Context, x: Any) -> lg.Value:
        h, mask = lg.ops.gather(ctx.param("table"), x["ids"]), x["mask"]
        for layer in range(LAYERS):
            w = {name: ctx.param(f"{name}_{layer}") for name in SHAPES}
            scores = (h @ w["query"]) @ (h @ w["key"]).swapaxes(1, 2)
            scores = lg.ops.where(lg.ops.unsqueeze(mask, 1), scores, -1e9)
            h = h + lg.ops.softmax(scores) @ (h @ w["value"]) @ w["out"]
            h = h + lg.ops.tanh(h @ w["up"]) @ w["down"]
        kept = lg.ops.unsqueeze(mask, 2).astype(np.float64)
        return ((h * kept).sum(axis=1) / kept.sum(axis=1)) @ ctx.param("head")


def logits(state: dict[str, Array], ids: Array, mask: Array) -> Array:
    """The same in plain NumPy, of one sample without what is masked."""
    h = state["table"][ids[mask]]
    for layer in range(LAYERS):
        w = {name: state[f"{name}_{layer}"] for name in SHAPES}
        h = h + softmax((h @ w["query"]) @ (h @ w["key"]).T, axis=-1) @ h @ w["value"] @ w["out"]
        h = h + np.tanh(h @ w["up"]) @ w["down"]
    found: Array = h.mean(axis=0) @ state["head"]
    return found


def samples(count: int, time: int = 6, seed: int = 3) -> tuple[dict[str, Array], Array]:
    """Sequences of which at least one token counts, and the class of their first one."""
    rng = np.random.default_rng(seed)
    mask = rng.random((count, time)) < 0.7
    mask[:, 0] = True
    ids = rng.integers(0, TOKENS, (count, time))
    return {"ids": ids, "mask": mask}, ids[:, 0] % CLASSES
