"""Layers to test, each with an independent float64 formula for what it computes from its parameters by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import erf, expit
from scipy.special import softmax as scipy_softmax

import lora_graph as lg

Formula = Callable[[Mapping[str, Any], Any], Any]

ACTIVATIONS: dict[str, Callable[[Any], Any]] = {
    "identity": lambda z: z,
    "relu": lambda z: np.maximum(z, 0),
    "leaky_relu": lambda z: np.where(z < 0, 0.01 * z, z),
    "elu": lambda z: np.where(z > 0, z, np.expm1(np.minimum(z, 0))),
    "gelu": lambda z: z * (1 + erf(z / np.sqrt(2))) / 2,
    "gelu_tanh": lambda z: z * (1 + np.tanh(np.sqrt(2 / np.pi) * (z + 0.044715 * z**3))) / 2,
    "silu": lambda z: z * expit(z),
    "sigmoid": expit,
    "tanh": np.tanh,
    "softplus": lambda z: np.logaddexp(0, z),
    "softmax": lambda z: scipy_softmax(z, axis=-1),
}


class Gain(lg.Layer):
    """The custom layer of the documentation."""

    def __init__(self, size: int, dtype: Any = np.float32) -> None:
        super().__init__(input_shape=(size,), output_shape=(size,), dtype=dtype)
        self.add_parameter("gain", np.linspace(0.5, 2, size))

    def build(self, ctx: lg.Context, x: lg.Value) -> lg.Value:
        return x * ctx.param("gain")


@dataclass(frozen=True)
class Case:
    """``formula`` maps parameters by name and an input to the output of the layer that ``make`` gives for a dtype."""

    name: str
    make: Callable[[Any], lg.Layer]
    formula: Formula
    input_size: int
    output_size: int

    def __str__(self) -> str:
        return self.name


def dense(activation: str) -> Case:
    return Case(
        f"dense-{activation}",
        lambda dtype: shifted(lg.DenseLayer(5, 3, activation, dtype=dtype, rng=1)),
        lambda p, x: ACTIVATIONS[activation](x @ p["weight"] + p["bias"]),
        5,
        3,
    )


def shifted(layer: lg.Layer) -> lg.Layer:
    """The layer with every parameter moved a little, so that none is zero."""
    rng = np.random.default_rng(3)
    for name in layer.get_parameter_names():
        array = layer.get_parameter(name)
        layer.set_parameter(name, array + rng.normal(0, 0.3, array.shape))
    return layer


def chain(dtype: Any) -> lg.Layer:
    first = lg.DenseLayer(5, 4, "tanh", dtype=dtype, rng=1)
    return shifted(lg.Sequential([first, Gain(4, dtype), lg.FullyConnectedLayer(4, 3, dtype=dtype, rng=2)]))


def chain_formula(p: Mapping[str, Any], x: Any) -> Any:
    hidden = np.tanh(x @ p["0.weight"] + p["0.bias"]) * p["1.gain"]
    return hidden @ p["2.weight"].T + p["2.bias"]


KINDS = [
    dense("identity"),
    Case(
        "fully-connected",
        lambda dtype: shifted(lg.FullyConnectedLayer(5, 3, "sigmoid", dtype=dtype, rng=1)),
        lambda p, x: expit(x @ p["weight"].T + p["bias"]),
        5,
        3,
    ),
    Case("gain", lambda dtype: Gain(4, dtype), lambda p, x: x * p["gain"], 4, 4),
    Case("sequential", chain, chain_formula, 5, 3),
]
"""One layer of each kind."""

CASES = [*KINDS, *(dense(activation) for activation in ACTIVATIONS if activation != "identity")]

LEADS: list[tuple[int, ...]] = [(), (3,), (2, 3), (2, 1, 3), (0,), (2, 0)]
"""Leading axes: inputs of one to four axes, and empty batches."""
