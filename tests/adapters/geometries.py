"""Base layers of random geometry: convolutions, recurrences and a layer of a user's own around a convolution.

Each comes with a NumPy formula of its own, in which adapters are changes of weights: by site "weight" of those inside,
by site "output" of the weight of a linear map beside the layer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from scipy.special import expit

import lora_graph as lg
from tests.layers.cases import ACTIVATIONS

Arrays = Mapping[str, Any]


@dataclass(frozen=True)
class Subject:
    """A layer, the per-sample shape of its inputs, and ``formula(p, x)`` for it in float64.

    ``beside(change, x)`` is a linear map of the weight ``change`` beside it; ``layouts`` says for each weight whether
    its rows are outputs (``rows``) or it is the kernel of a convolution in g groups (``kernel g``).
    """

    layer: lg.Layer
    sample: tuple[int, ...]
    formula: Callable[[Arrays, Any], Any]
    beside: Callable[[Any, Any], Any]
    output_layout: str
    layouts: Mapping[str, str]
    is_affine: bool
    geometry: str


def convolved(x: Any, w: Any, strides: Any, pads: Any, dilations: Any, groups: int) -> Any:
    """y[n, o, p] = Σ x[n, i, p · stride + k · dilation - pad] w[o, i, k], position by position."""
    axes = w.ndim - 2
    padded = np.pad(x, [(0, 0), (0, 0), *zip(pads[:axes], pads[axes:], strict=True)])
    reach = [(k - 1) * d + 1 for k, d in zip(w.shape[2:], dilations, strict=True)]
    counts = [(n - r) // s + 1 for n, r, s in zip(padded.shape[2:], reach, strides, strict=True)]
    outer, inner = w.shape[0] // groups, w.shape[1]
    y = np.zeros((len(x), w.shape[0], *counts))
    for at in product(*map(range, counts)):
        window = tuple(slice(p * s, p * s + r, d) for p, s, r, d in zip(at, strides, reach, dilations, strict=True))
        seen = padded[(slice(None), slice(None), *window)]
        for g in range(groups):
            part = seen[:, g * inner : (g + 1) * inner].reshape(len(x), -1)
            rows = slice(g * outer, (g + 1) * outer)
            y[(slice(None), rows, *at)] = part @ w[rows].reshape(outer, -1).T
    return y


def convolution(rng: np.random.Generator, activation: str, dtype: str) -> Subject:
    """One or two spatial axes, any stride, padding, dilation and number of groups."""
    axes = int(rng.integers(1, 3))
    groups = int(rng.choice([1, 1, 2, 3]))
    inner, outer = groups * int(rng.integers(1, 4)), groups * int(rng.integers(2, 4))
    kernel = tuple(int(k) for k in rng.integers(1, 4, axes))
    strides, padding, dilations = ([int(v) for v in rng.integers(low, 3, axes)] for low in (1, 0, 1))
    layer = lg.ConvolutionalLayer(
        inner, outer, kernel, tuple(strides), tuple(padding), tuple(dilations), groups, activation, dtype=dtype, rng=rng
    )
    shifted(layer, rng)
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    sample = (inner, *(int(rng.integers(max(r - 2 * p, 1), r + 4)) for r, p in zip(reach, padding, strict=True)))
    numbers = (strides, padding * 2, dilations, groups)
    column = (-1, *(1,) * axes)

    def formula(p: Arrays, x: Any) -> Any:
        return _along_channels(activation, convolved(x, p["weight"], *numbers) + p["bias"].reshape(column), axes)

    return Subject(
        layer,
        sample,
        formula,
        lambda change, x: convolved(x, change, *numbers),
        f"kernel {groups}",
        {"weight": f"kernel {groups}"},
        activation == "identity",
        f"{inner}->{outer} by {kernel} on {sample[1:]}, strides {strides}, pads {padding}, dilations {dilations}, "
        f"groups {groups}, {activation}",
    )


class Gained(lg.Layer):
    """A layer of a user's own: y = gain · act(x ∗ W), with a gain for each channel."""

    def __init__(self, channels: int, activation: str, dtype: str, rng: np.random.Generator) -> None:
        names = ("height", "width")
        super().__init__(input_shape=(channels, *names), output_shape=(channels, *names), dtype=dtype)
        self.act = lg.ops.ACTIVATIONS[activation]
        self.add_parameter("kernel", rng.normal(0, 0.4, (channels, channels, 3, 3)))
        self.add_parameter("gain", rng.uniform(0.5, 2, (channels, 1, 1)))

    def build(self, ctx: lg.Context, x: lg.Value) -> lg.Value:
        return self.act(lg.ops.conv(x, ctx.param("kernel"), pads=1)) * ctx.param("gain")


def gained(rng: np.random.Generator, activation: str, dtype: str) -> Subject:
    channels = int(rng.integers(2, 5))
    activation = "tanh" if activation == "softmax" else activation
    layer = Gained(channels, activation, dtype, rng)
    numbers = ((1, 1), (1, 1, 1, 1), (1, 1), 1)
    return Subject(
        layer,
        (channels, *(int(n) for n in rng.integers(2, 5, 2))),
        lambda p, x: ACTIVATIONS[activation](convolved(x, p["kernel"], *numbers)) * p["gain"],
        lambda change, x: convolved(x, change, *numbers),
        "kernel 1",
        {"kernel": "kernel 1"},
        False,
        f"{channels} channels, {activation}",
    )


def lstm_steps(p: Arrays, x: Any) -> Any:
    """The hidden states of all steps; gates in the order i, o, f, c."""
    size = p["weight_hh"].shape[1]
    h = c = np.zeros((len(x), size))
    states = []
    for t in range(x.shape[1]):
        pre = x[:, t] @ p["weight_ih"].T + h @ p["weight_hh"].T + p["bias_ih"] + p["bias_hh"]
        i, o, f, g = np.split(pre, 4, axis=1)
        c = expit(f) * c + expit(i) * np.tanh(g)
        h = expit(o) * np.tanh(c)
        states.append(h)
    return np.stack(states, 1)


def gru_steps(p: Arrays, x: Any) -> Any:
    """The hidden states of all steps; gates in the order z, r, h, with r applied to the state before its product."""
    size = p["weight_hh"].shape[1]
    h = np.zeros((len(x), size))
    states = []
    rows = [slice(k * size, (k + 1) * size) for k in range(3)]
    for t in range(x.shape[1]):
        of_x = x[:, t] @ p["weight_ih"].T + p["bias_ih"] + p["bias_hh"]
        z, r = (expit(of_x[:, k] + h @ p["weight_hh"][k].T) for k in rows[:2])
        candidate = np.tanh(of_x[:, rows[2]] + (r * h) @ p["weight_hh"][rows[2]].T)
        h = (1 - z) * candidate + z * h
        states.append(h)
    return np.stack(states, 1)


def recurrence(
    make: Callable[..., lg.Layer], steps: Callable[[Arrays, Any], Any]
) -> Callable[[np.random.Generator, str, str], Subject]:
    def subject(rng: np.random.Generator, activation: str, dtype: str) -> Subject:
        inner, hidden, time = (int(n) for n in rng.integers((3, 3, 1), (6, 6, 5)))
        sequences = bool(rng.integers(2))
        layer = make(inner, hidden, sequences, dtype=dtype, rng=rng)
        shifted(layer, rng)

        def formula(p: Arrays, x: Any) -> Any:
            return steps(p, x) if sequences else steps(p, x)[:, -1]

        def beside(change: Any, x: Any) -> Any:
            return (x if sequences else x[:, -1]) @ change.T

        rows = dict.fromkeys(("weight_ih", "weight_hh"), "rows")
        name = f"{inner}->{hidden}, {time} steps, {'all' if sequences else 'last'}"
        return Subject(layer, (time, inner), formula, beside, "rows", rows, False, name)

    return subject


SUBJECTS: dict[str, Callable[[np.random.Generator, str, str], Subject]] = {
    "convolution": convolution,
    "custom convolution": gained,
    "lstm": recurrence(lg.LSTMLayer, lstm_steps),
    "gru": recurrence(lg.GRULayer, gru_steps),
}


def shifted(layer: lg.Layer, rng: np.random.Generator) -> None:
    """Move every parameter a little, so that none is zero."""
    for name in layer.get_parameter_names():
        array = layer.get_parameter(name)
        layer.set_parameter(name, array + rng.normal(0, 0.2, array.shape))


def _along_channels(activation: str, z: Any, axes: int) -> Any:
    """The activation of images, whose features are the channels."""
    return np.moveaxis(ACTIVATIONS[activation](np.moveaxis(z, -1 - axes, -1)), -1, -1 - axes)


@dataclass(frozen=True)
class Way:
    """One way to build an adapter. ``narrowed`` says what the draw, or evaluation, makes of A, B and the change."""

    name: str
    make: Callable[..., lg.Adapter]
    kind: str = "lora"
    sites: tuple[str, ...] = ("output", "weight")

    def __str__(self) -> str:
        return self.name


WAYS = [
    Way("lora", lambda base, rank, alpha, **o: lg.StandardLoRAAdapter(base, rank, alpha, **o)),
    Way(
        "dylora", lambda base, rank, alpha, **o: lg.DyLoRAAdapter(base, rank, range(1, rank + 1), alpha, **o), "dylora"
    ),
    Way("lora-drop", lambda base, rank, alpha, **o: lg.LoRADropAdapter(base, rank, 0.4, alpha, **o), "drop"),
    Way(
        "lora-drop-element",
        lambda base, rank, alpha, **o: lg.LoRADropAdapter(base, rank, 0.4, alpha, mask="element", **o),
        "drop",
        ("output",),
    ),
    Way("dora", lambda base, rank, alpha, **o: lg.DoRAAdapter(base, rank, alpha, wide=True, **o), "dora", ("weight",)),
    Way(
        "dora-input",
        lambda base, rank, alpha, **o: lg.DoRAAdapter(base, rank, alpha, norm="input", wide=True, **o),
        "dora",
        ("weight",),
    ),
    Way("lokr", lambda base, rank, alpha, **o: lg.LoKrAdapter(base, rank, alpha, **o), "lokr"),
    Way(
        "lokr-parts",
        lambda base, rank, alpha, **o: lg.LoKrAdapter(
            base, rank, alpha, decompose_factor=2, decompose_both=True, tucker=True, **o
        ),
        "lokr",
    ),
    Way("tucker", lambda base, rank, alpha, **o: lg.StandardLoRAAdapter(base, rank, alpha, tucker=True, **o)),
]


def weight_change(
    way: Way, layout: str, a: Any, b: Any, s: float, drawn: Any, shape: tuple[int, ...], mid: Any = None
) -> Any:
    """ΔW in the layout of the weight, for what was drawn: a rank, a mask of features, or None in evaluation.

    ``mid`` is a kernel between A and B, which are then pointwise.
    """
    if way.kind == "lokr":
        return s * np.kron(a, b.reshape(len(b), -1)).reshape(shape)
    if layout == "rows":
        a, b = a.T[None], b.T[None]
    else:
        groups = int(layout.split()[1])
        b = b.reshape(groups, -1, b.shape[1])
        if mid is not None:
            core = mid.reshape(groups, -1, mid.shape[1], *mid.shape[2:])
            a = np.einsum("grs...,gsi->gri...", core, a.reshape(groups, -1, a.shape[1]))
            a = a.reshape(-1, *a.shape[2:])
        a = a.reshape(groups, -1, a[0].size)
    if way.kind == "dylora" and drawn is not None:
        a, b = a[:, :drawn], b[:, :, :drawn]
    change = s * np.einsum("gor,gri->goi", b, a).reshape(shape)
    if way.kind == "drop":
        keep = np.full(shape[0], 0.6) if drawn is None else np.asarray(drawn).reshape(-1)
        change = change * keep.reshape(-1, *(1,) * (len(shape) - 1))
    return change


def directed(way: Way, old: Any, new: Any, fixed: Any, magnitude: Any) -> Any:
    """What DoRA makes of a weight: W + ΔW with magnitudes for the norms that ``fixed`` has; less the weight itself.

    Each is in the layout of the weight, whose first axis is that of outputs, the second that of inputs.
    """
    axes = tuple(axis for axis in range(old.ndim) if axis != (1 if way.name.endswith("input") else 0))
    norm = np.sqrt((fixed**2).sum(axes, keepdims=True))
    return new * (magnitude.reshape(norm.shape) / norm) - old
