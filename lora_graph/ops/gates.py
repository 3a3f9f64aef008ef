"""The functions that ONNX's recurrent ops know by name, with the numbers they take unless told otherwise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from lora_graph.ir.value import apply
from lora_graph.ops.activation import Elu, LeakyRelu, Softplus, relu, sigmoid, tanh
from lora_graph.ops.select import clip, where

Gate = Callable[[Any], Any]

GATES: dict[str, tuple[Callable[..., Any], tuple[float, ...]]] = {
    "Affine": (lambda x, alpha, beta: x * alpha + beta, (1.0, 0.0)),
    "Elu": (lambda x, alpha: apply(Elu(alpha), x), (1.0,)),
    "HardSigmoid": (lambda x, alpha, beta: clip(x * alpha + beta, 0.0, 1.0), (0.2, 0.5)),
    "LeakyRelu": (lambda x, alpha: apply(LeakyRelu(alpha), x), (0.01,)),
    "Relu": (relu, ()),
    "ScaledTanh": (lambda x, alpha, beta: tanh(x * beta) * alpha, (1.0, 1.0)),
    "Sigmoid": (sigmoid, ()),
    "Softplus": (lambda x: apply(Softplus(), x), ()),
    "Softsign": (lambda x: x / (x.abs() + 1.0), ()),
    "Tanh": (tanh, ()),
    "ThresholdedRelu": (lambda x, alpha: where(x > alpha, x, 0.0), (1.0,)),
}
"""Each function of x and of alpha and beta, as far as it takes them, and their defaults."""


Numbers = tuple[float, ...]


def completed(names: Sequence[str], alphas: Sequence[float], betas: Sequence[float]) -> tuple[Numbers, Numbers]:
    """One alpha for each of ``names`` that takes one, and one beta: the next one given, or else the default.

    ValueError for a name that is unknown.
    """
    unknown = [name for name in names if name not in GATES]
    if unknown:
        raise ValueError(f"activations must be among {sorted(GATES)}, got {unknown[0]!r}")
    full = []
    for which, given in enumerate((alphas, betas)):
        defaults = [GATES[name][1][which] for name in names if len(GATES[name][1]) > which]
        full.append((*map(float, given[: len(defaults)]), *defaults[len(given) :]))
    return full[0], full[1]


def gates(names: Sequence[str], alphas: Numbers, betas: Numbers) -> list[Gate]:
    """The functions called ``names``, with ``completed`` numbers."""
    left = iter(alphas), iter(betas)
    found: list[Gate] = []
    for name in names:
        function, defaults = GATES[name]
        found.append(
            partial(function, **{w: next(n) for w, n, _ in zip(("alpha", "beta"), left, defaults, strict=False)})
        )
    return found
