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
    sample: tuple[int, ...]
    result: tuple[int, ...]
    takes: str = ""
    """How the per-sample input shape is written."""
    gives: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "takes", self.takes or ", ".join(map(str, self.sample)))
        object.__setattr__(self, "gives", self.gives or ", ".join(map(str, self.result)))

    def __str__(self) -> str:
        return self.name


def dense(activation: str) -> Case:
    return Case(
        f"dense-{activation}",
        lambda dtype: shifted(lg.DenseLayer(5, 3, activation, dtype=dtype, rng=1)),
        lambda p, x: ACTIVATIONS[activation](x @ p["weight"] + p["bias"]),
        (5,),
        (3,),
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


def convolved(x: Any, w: Any, b: Any, stride: Any, padding: Any, dilation: Any, groups: int = 1) -> Any:
    """The convolution of x ``[..., channels, *spatial]``, each window multiplied out."""
    axes = w.ndim - 2
    taken = windows(x, w.shape[2:], stride, padding, dilation, 0.0)
    each = taken.reshape((*x.shape[: -axes - 1], groups, w.shape[1], *taken.shape[-2 * axes :]))
    weight = w.reshape((groups, len(w) // groups, *w.shape[1:]))
    out, kernel = "rst"[:axes], "uvw"[:axes]
    y = np.einsum(f"...gi{out}{kernel},goi{kernel}->...go{out}", each, weight)
    return y.reshape((*x.shape[: -axes - 1], len(w), *y.shape[-axes:])) + b.reshape((-1,) + (1,) * axes)


def windows(x: Any, kernel: Any, stride: Any, padding: Any, dilation: Any, fill: float) -> Any:
    """The windows over the last axes of x, as further axes behind them."""
    axes = len(kernel)
    x = np.pad(x, [(0, 0)] * (x.ndim - axes) + [(p, p) for p in padding], constant_values=fill)
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
    taken = np.lib.stride_tricks.sliding_window_view(x, reach, tuple(range(-axes, 0)))
    return taken[(..., *(slice(None, None, s) for s in stride), *(slice(None, None, d) for d in dilation))]


def convolution(dtype: Any) -> lg.Layer:
    options: dict[str, Any] = {"stride": (2, 1), "padding": (1, 0), "dilation": (1, 2), "groups": 2}
    return shifted(lg.ConvolutionalLayer(2, 4, (3, 2), activation="tanh", **options, dtype=dtype, rng=1))


def signal_formula(p: Mapping[str, Any], x: Any) -> Any:
    return scipy_softmax(convolved(x, p["weight"], p["bias"], (1,), (1,), (1,)), axis=-2)


def images(dtype: Any) -> lg.Layer:
    layers = [
        lg.ConvolutionalLayer(1, 2, 3, padding=1, activation="sigmoid", dtype=dtype, rng=1),
        lg.AveragePoolLayer(2, dtype=dtype),
        lg.ConvolutionalLayer(2, 3, 2, activation="tanh", dtype=dtype, rng=2),
        lg.AveragePoolLayer((2, 1), stride=1, padding=(1, 0), count_include_pad=True, dtype=dtype),
        lg.GlobalAveragePoolLayer(dtype=dtype),
        lg.DenseLayer(3, 2, dtype=dtype, rng=3),
    ]
    return shifted(lg.Sequential(layers))


def images_formula(p: Mapping[str, Any], x: Any) -> Any:
    x = expit(convolved(x, p["0.weight"], p["0.bias"], (1, 1), (1, 1), (1, 1)))
    x = windows(x, (2, 2), (2, 2), (0, 0), (1, 1), 0.0).mean((-2, -1))
    x = np.tanh(convolved(x, p["2.weight"], p["2.bias"], (1, 1), (0, 0), (1, 1)))
    x = windows(x, (2, 1), (1, 1), (1, 0), (1, 1), 0.0).mean((-2, -1)).mean((-2, -1))
    return x @ p["5.weight"] + p["5.bias"]


def flat(dtype: Any) -> lg.Layer:
    layers = [
        lg.MaxPoolLayer((2,), stride=1, dtype=dtype),
        lg.ConvolutionalLayer(2, 3, (2,), dtype=dtype, rng=1),
        lg.FlattenLayer(1, dtype=dtype),
        lg.DenseLayer(9, 2, "tanh", dtype=dtype, rng=2),
    ]
    return shifted(lg.Sequential(layers, input_shape=(2, 5)))


def flat_formula(p: Mapping[str, Any], x: Any) -> Any:
    x = convolved(np.maximum(x[..., 1:], x[..., :-1]), p["1.weight"], p["1.bias"], (1,), (0,), (1,))
    return np.tanh(x.reshape((*x.shape[:-2], 9)) @ p["3.weight"] + p["3.bias"])


def layer_normalized(p: Mapping[str, Any], x: Any) -> Any:
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 0.5) * p["weight"] + p["bias"]


KINDS = [
    dense("identity"),
    Case(
        "fully-connected",
        lambda dtype: shifted(lg.FullyConnectedLayer(5, 3, "sigmoid", dtype=dtype, rng=1)),
        lambda p, x: expit(x @ p["weight"].T + p["bias"]),
        (5,),
        (3,),
    ),
    Case("gain", lambda dtype: Gain(4, dtype), lambda p, x: x * p["gain"], (4,), (4,)),
    Case("sequential", chain, chain_formula, (5,), (3,)),
    Case(
        "convolution",
        convolution,
        lambda p, x: np.tanh(convolved(x, p["weight"], p["bias"], (2, 1), (1, 0), (1, 2), 2)),
        (2, 5, 4),
        (4, 3, 2),
        "2, height, width",
        "4, ((height-1)//2)+1, width-2",
    ),
    Case("images", images, images_formula, (1, 6, 5), (2,), "1, height, width"),
    Case("flat", flat, flat_formula, (2, 5), (2,)),
    Case(
        "layer-normalization",
        lambda dtype: shifted(lg.LayerNormalizationLayer(4, 0.5, dtype=dtype)),
        layer_normalized,
        (4,),
        (4,),
    ),
]
"""One layer of each kind."""

SIGNAL = Case(
    "signal",
    lambda dtype: shifted(lg.ConvolutionalLayer(2, 3, (3,), padding=1, activation="softmax", dtype=dtype, rng=1)),
    signal_formula,
    (2, 5),
    (3, 5),
    "2, length",
    "3, length",
)

CASES = [*KINDS, SIGNAL, *(dense(activation) for activation in ACTIVATIONS if activation != "identity")]

LEADS: list[tuple[int, ...]] = [(), (3,), (2, 3), (2, 1, 3), (0,), (2, 0)]
"""Leading axes: inputs of one to four axes, and empty batches."""
