"""Bases and adapter families to test in all combinations, each with an independent NumPy formula."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

import lora_graph as lg
from tests.layers.cases import ACTIVATIONS, Gain

Arrays = Mapping[str, Any]
Delta = Callable[[str, Any], Any]
"""What is added to the product of the weight of this name with this input."""


def nothing(weight: str, h: Any) -> float:
    return 0.0


class TwoWeights(lg.Layer):
    """y = act(x up) downᵀ + bias, a layer of a user's own with two weights."""

    def __init__(self, inner: int, outer: int, activation: str, dtype: Any, rng: np.random.Generator) -> None:
        super().__init__(input_shape=(inner,), output_shape=(outer,), dtype=dtype)
        self.act = lg.ops.ACTIVATIONS[activation]
        self.add_parameter("up", rng.normal(0, 0.4, (inner, 7)))
        self.add_parameter("down", rng.normal(0, 0.4, (outer, 7)))
        self.add_parameter("bias", rng.normal(0, 0.4, outer))

    def build(self, ctx: lg.Context, x: lg.Value) -> lg.Value:
        return self.act(x @ ctx.param("up")) @ ctx.param("down").T + ctx.param("bias")


@dataclass(frozen=True)
class Base:
    """``formula(p, x, delta, act)`` is the layer on parameters p with ``delta`` added at each weight."""

    name: str
    make: Callable[[int, int, str, Any, np.random.Generator], lg.Layer]
    formula: Callable[[Arrays, Any, Delta, Callable[[Any], Any]], Any]
    weights: tuple[str, ...]
    affine: bool
    """Whether it is x W + b where its activation is the identity."""
    rows: tuple[str, ...] = ()
    """The weights whose rows are outputs."""

    def __str__(self) -> str:
        return self.name


def _chain(inner: int, outer: int, activation: str, dtype: Any, rng: np.random.Generator) -> lg.Layer:
    return lg.Sequential(
        [
            lg.DenseLayer(inner, 6, activation, dtype=dtype, rng=rng),
            Gain(6, dtype),
            lg.FullyConnectedLayer(6, outer, dtype=dtype, rng=rng),
        ]
    )


def _chain_formula(p: Arrays, x: Any, delta: Delta, act: Callable[[Any], Any]) -> Any:
    h = act(x @ p["0.weight"] + delta("0.weight", x) + p["0.bias"]) * p["1.gain"]
    return h @ p["2.weight"].T + delta("2.weight", h) + p["2.bias"]


def _two_formula(p: Arrays, x: Any, delta: Delta, act: Callable[[Any], Any]) -> Any:
    h = act(x @ p["up"] + delta("up", x))
    return h @ p["down"].T + delta("down", h) + p["bias"]


BASES = [
    Base(
        "dense",
        lambda i, o, a, d, r: lg.DenseLayer(i, o, a, dtype=d, rng=r),
        lambda p, x, delta, act: act(x @ p["weight"] + delta("weight", x) + p["bias"]),
        ("weight",),
        True,
    ),
    Base(
        "fully-connected",
        lambda i, o, a, d, r: lg.FullyConnectedLayer(i, o, a, dtype=d, rng=r),
        lambda p, x, delta, act: act(x @ p["weight"].T + delta("weight", x) + p["bias"]),
        ("weight",),
        True,
        ("weight",),
    ),
    Base("sequential", _chain, _chain_formula, ("0.weight", "2.weight"), False, ("2.weight",)),
    Base("custom", TwoWeights, _two_formula, ("up", "down"), False, ("down",)),
]


@dataclass(frozen=True)
class Kind:
    """One way to build a family's adapter. ``change(h, a, b, s, draw)`` is its formula, with s = alpha / rank.

    ``draw`` holds what was drawn for this forward, the mask or the rank; it is None in evaluation.
    """

    name: str
    cls: type[lg.Adapter]
    arguments: Mapping[str, Any]
    change: Callable[[Any, Any, Any, float, Any], Any]
    branch: str = "lora"
    sites: tuple[str, ...] = ("output", "weight")

    def __str__(self) -> str:
        return self.name

    def make(self, base: lg.Layer, rank: int, alpha: float, **more: Any) -> lg.Adapter:
        given = {**self.arguments, **more}
        if self.cls is lg.DyLoRAAdapter:
            given["active_ranks"] = range(1, rank + 1)
        return self.cls(base, rank, alpha=alpha, **given)

    def label(self, base: Base, site: str, weight: str, branch: str) -> str:
        """The name of a branch, or of a mask, beside a weight."""
        several = site == "weight" and len(base.weights) > 1
        return f"{branch}_{weight.replace('.', '_')}" if several else branch

    def delta(
        self, base: Base, site: str, p: Arrays, s: float, draws: Arrays | None, fixed: Arrays | None = None
    ) -> Delta:
        """``fixed`` are the parameters whose norms count as constants, those of ``p`` by default."""

        def delta(weight: str, h: Any) -> Any:
            branch = self.label(base, site, weight, self.branch)
            if f"{branch}.magnitude" in p:
                axis = 1 if self.arguments.get("norm") == "input" else 0
                return h @ directed(p, p if fixed is None else fixed, weight, branch, s, axis, weight in base.rows)
            drawn = None
            if draws is not None:
                drawn = draws.get("rank", draws.get(self.label(base, site, weight, "mask")))
            return self.change(h, whole(p, branch, "A"), whole(p, branch, "B"), s, drawn)

        return delta


def whole(p: Arrays, branch: str, name: str) -> Any:
    """A or B of a branch, multiplied out where it is in parts: Σ left[p, i] core[i, j, k] right[j, q]."""
    if f"{branch}.{name}" in p:
        return p[f"{branch}.{name}"]
    left, right = p[f"{branch}.{name}_left"], p[f"{branch}.{name}_right"]
    if f"{branch}.{name}_core" in p:
        return np.einsum("pi,ij...,jq->pq...", left, p[f"{branch}.{name}_core"], right)
    return np.tensordot(left, right, 1)


def lora(h: Any, a: Any, b: Any, s: float, draw: Any) -> Any:
    return s * (h @ (a @ b))


def nested(h: Any, a: Any, b: Any, s: float, draw: Any) -> Any:
    rank = a.shape[1] if draw is None else draw
    return s * (h @ (a[:, :rank] @ b[:rank]))


def nested_per_rank(h: Any, a: Any, b: Any, s: float, draw: Any) -> Any:
    rank = a.shape[1] if draw is None else draw
    return s * a.shape[1] / rank * (h @ (a[:, :rank] @ b[:rank]))


def dropped(h: Any, a: Any, b: Any, s: float, draw: Any) -> Any:
    return s * (h @ (a @ b)) * (0.6 if draw is None else draw)


def dropped_plain(h: Any, a: Any, b: Any, s: float, draw: Any) -> Any:
    return s * (h @ (a @ b)) * (1 if draw is None else draw)


def kronecker(h: Any, a: Any, b: Any, s: float, draw: Any) -> Any:
    return s * (h @ np.kron(a, b).T)


def nothing_added(h: Any, a: Any, b: Any, s: float, draw: Any) -> Any:
    raise AssertionError("DoRA's change depends on the weight: see directed")


def directed(p: Arrays, fixed: Arrays, weight: str, branch: str, s: float, axis: int, is_rows: bool) -> Any:
    """What DoRA adds to a weight ``[in, out]``: directions of norm 1 along ``axis`` times magnitudes, less the weight.

    The norms are those of the parameters ``fixed``.
    """

    def total(arrays: Arrays) -> Any:
        w = arrays[f"base.{weight}"]
        return (w.T if is_rows else w) + s * (arrays[f"{branch}.A"] @ arrays[f"{branch}.B"])

    old = p[f"base.{weight}"].T if is_rows else p[f"base.{weight}"]
    factors = p[f"{branch}.magnitude"] / np.sqrt((total(fixed) ** 2).sum(axis))
    return total(p) * np.expand_dims(factors, axis) - old


KINDS = [
    Kind("lora", lg.StandardLoRAAdapter, {}, lora),
    Kind("dylora", lg.DyLoRAAdapter, {}, nested),
    Kind("dylora-per-rank", lg.DyLoRAAdapter, {"rank_scaling": "per_rank"}, nested_per_rank),
    Kind("lora-drop", lg.LoRADropAdapter, {"dropout_rate": 0.4}, dropped),
    Kind("lora-drop-none", lg.LoRADropAdapter, {"dropout_rate": 0.4, "inference_scaling": "none"}, dropped_plain),
    Kind("lora-drop-element", lg.LoRADropAdapter, {"dropout_rate": 0.4, "mask": "element"}, dropped, sites=("output",)),
    Kind("dora", lg.DoRAAdapter, {}, nothing_added, sites=("weight",)),
    Kind("dora-input", lg.DoRAAdapter, {"norm": "input"}, nothing_added, sites=("weight",)),
    Kind("lokr", lg.LoKrAdapter, {}, kronecker, branch="lokr"),
    Kind("lokr-parts", lg.LoKrAdapter, {"decompose_factor": 2, "decompose_both": True}, kronecker, branch="lokr"),
    Kind("rslora", lg.StandardLoRAAdapter, {"rank_scaling": "sqrt_rank"}, lora),
]


@dataclass(frozen=True)
class Built:
    """An adapter with random parameters, and its formula in float64."""

    adapter: lg.Adapter
    kind: Kind
    base: Base
    site: str
    activation: str
    s: float

    def truth(self, arrays: Arrays, x: Any, draws: Arrays | None = None) -> Any:
        """The output for parameters by the adapter's names."""
        p = {name.removeprefix("base."): array for name, array in arrays.items() if name.startswith("base.")}
        delta = self.kind.delta(self.base, self.site, arrays, self.s, draws, self.exact)
        act = ACTIVATIONS[self.activation]
        if self.site == "weight":
            return self.base.formula(p, x, delta, act)
        return self.base.formula(p, x, nothing, act) + delta("", x)

    @property
    def exact(self) -> dict[str, Any]:
        return {name: array.astype(np.float64) for name, array in self.adapter.state.items()}

    @property
    def merges(self) -> bool:
        return self.site == "weight" or (self.base.affine and self.activation == "identity")


def built(
    kind: Kind, base: Base, site: str, activation: str, dtype: str, rng: np.random.Generator, **more: Any
) -> Built:
    """An adapter of random widths, rank and alpha, with random matrices."""
    inner, outer = (int(width) for width in rng.integers(4, 10, 2))
    rank = int(rng.integers(1, min(inner, outer, 6)))
    alpha = float(rng.choice([-1.0, 0.5, 8.0]))
    layer = base.make(inner, outer, activation, dtype, rng)
    adapter = kind.make(layer, rank, alpha, site=site, rng=rng, **more)
    for name in adapter.get_parameter_names():
        if not name.startswith("base."):
            adapter.set_parameter(name, rng.normal(0, 0.4, adapter.get_parameter_shape(name)))
    divisor = np.sqrt(rank) if kind.arguments.get("rank_scaling") == "sqrt_rank" else rank
    return Built(adapter, kind, base, site, activation, float((rank if alpha < 0 else alpha) / divisor))


def draws_of(adapter: lg.Adapter) -> dict[str, Any]:
    """What the last forward drew."""
    last = adapter._runner._last
    assert last is not None
    found: dict[str, Any] = {name: array for name, array in last.inputs.items() if name.startswith("mask")}
    if isinstance(adapter, lg.DyLoRAAdapter):
        found["rank"] = adapter.last_sampled_rank
    return found
