"""Small models for the tests of training, and their loss and gradients in plain NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np

import lora_graph as lg

Array = np.ndarray[Any, Any]


class Linear(lg.Layer):
    """y = x w, the smallest thing that trains."""

    def __init__(self, weight: Array, *, dtype: Any = np.float64):
        super().__init__(input_shape=(weight.shape[0],), output_shape=(weight.shape[1],), dtype=dtype)
        self.add_parameter("w", weight)

    def build(self, ctx: lg.Context, x: lg.Value) -> lg.Value:
        return x @ ctx.param("w")


class Centered(lg.Layer):
    """y = (x - m) w, where m is a running mean of the inputs: m ← 0.9 m + 0.1 mean(x) in training."""

    def __init__(self, weight: Array):
        super().__init__(input_shape=(weight.shape[0],), output_shape=(weight.shape[1],), dtype=np.float64)
        self.add_parameter("w", weight)
        self.add_parameter("mean", np.zeros(weight.shape[0]), trainable=False)

    def build(self, ctx: lg.Context, x: lg.Value) -> lg.Value:
        mean = ctx.param("mean")
        if ctx.training:
            ctx.update("mean", mean * 0.9 + x.mean(axis=0) * 0.1)
        return (x - mean) @ ctx.param("w")


def mse_gradient(w: Array, x: Array, t: Array) -> Array:
    """d mean((x w - t)²) / d w"""
    return 2 * x.T @ (x @ w - t) / t.size


def adapted(rank: int = 2, *, site: str = "weight", dtype: Any = np.float64, seed: int = 0) -> lg.StandardLoRAAdapter:
    """A LoRA adapter on a dense layer 6 -> 4, B away from zero."""
    base = lg.DenseLayer(6, 4, dtype=dtype, rng=seed)
    adapter = lg.StandardLoRAAdapter(base, rank, site=site, rng=seed + 1)
    adapter.set_parameter("lora.B", np.random.default_rng(seed + 2).standard_normal((rank, 4)))
    return adapter


def nested_model(ranks: tuple[int, ...] = (1, 2, 3), *, seed: int = 0, scaling: str = "max_rank") -> lg.DyLoRAAdapter:
    """A DyLoRA adapter of rank 3 on a dense layer 6 -> 4, B away from zero."""
    base = lg.DenseLayer(6, 4, dtype=np.float64, rng=seed)
    adapter = lg.DyLoRAAdapter(base, 3, ranks, rank_scaling=scaling, rng=seed + 1)
    adapter.set_parameter("lora.B", np.random.default_rng(seed + 2).standard_normal((3, 4)))
    return adapter


def batches(count: int, size: int = 8, *, seed: int = 5) -> list[tuple[Array, Array]]:
    """Batches of inputs ``[size, 6]`` and targets ``[size, 4]``."""
    rng = np.random.default_rng(seed)
    return [(rng.standard_normal((size, 6)), rng.standard_normal((size, 4))) for _ in range(count)]


def same_bits(first: dict[str, Array], second: dict[str, Array]) -> bool:
    """Whether two states hold the same arrays, to the last bit."""
    return first.keys() == second.keys() and all(
        first[name].dtype == second[name].dtype and first[name].tobytes() == second[name].tobytes() for name in first
    )


def copied(model: lg.Layer) -> dict[str, Array]:
    return {name: array.copy() for name, array in model.state.items()}
