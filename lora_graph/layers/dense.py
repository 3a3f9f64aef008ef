"""Dense layers: y = act(x W + b)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from lora_graph import checks
from lora_graph.ir.types import Array
from lora_graph.ir.value import Value
from lora_graph.layers.layer import Layer
from lora_graph.layers.trace import Context
from lora_graph.ops.activation import ACTIVATIONS

Activation = str | Callable[[Any], Any] | None


def activation_of(activation: Activation) -> tuple[str, Callable[[Any], Any]]:
    """The name and the function of an activation given as a name, a function Value → Value, or None."""
    if activation is None:
        return "identity", ACTIVATIONS["identity"]
    if callable(activation):
        return getattr(activation, "__name__", "custom"), activation
    return activation, ACTIVATIONS[checks.choice("activation", activation, list(ACTIVATIONS))]


def glorot(rng: np.random.Generator, fan_in: int, fan_out: int, shape: tuple[int, ...]) -> Array:
    """Glorot-uniform numbers: U(-a, a) with a = √(6 / (fan_in + fan_out)) (Glorot & Bengio, 2010)."""
    limit = math.sqrt(6 / (fan_in + fan_out))
    return rng.uniform(-limit, limit, shape)


class DenseLayer(Layer):
    """y = act(x W + b) with W ``[input_size, output_size]`` Glorot-uniform and b zero."""

    transposed = False
    """Whether the weight is kept as ``[out, in]``."""

    def __init__(
        self,
        input_size: int,
        output_size: int,
        activation: Activation = None,
        *,
        dtype: npt.DTypeLike = np.float32,
        rng: checks.Seed = None,
        layer_name: str | None = None,
    ):
        inner = checks.integer("input_size", input_size, 1)
        outer = checks.integer("output_size", output_size, 1)
        self.activation, self._activate = activation_of(activation)
        super().__init__(input_shape=(inner,), output_shape=(outer,), dtype=dtype, rng=rng, layer_name=layer_name)
        weight = glorot(self.rng, inner, outer, (inner, outer))
        self.add_parameter("weight", weight.T if self.transposed else weight)
        self.add_parameter("bias", np.zeros(outer))

    def build(self, ctx: Context, x: Value) -> Value:
        weight = ctx.param("weight")
        y: Value = self._activate(x @ (weight.T if self.transposed else weight) + ctx.param("bias"))
        return y

    def get_diagnostics(self) -> dict[str, str]:
        return {**super().get_diagnostics(), "activation": self.activation}


class FullyConnectedLayer(DenseLayer):
    """y = act(x Wᵀ + b): a dense layer that keeps its weight as ``[output_size, input_size]``."""

    transposed = True
