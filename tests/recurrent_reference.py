"""LSTM, GRU and RNN in plain NumPy, as ONNX documents them: one sequence, one step, one gate at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

FUNCTIONS: dict[str, tuple[Callable[..., Any], int, tuple[float, ...]]] = {
    "Affine": (lambda x, a, b: a * x + b, 2, (1.0, 0.0)),
    "Elu": (lambda x, a: np.where(x < 0, a * (np.exp(x) - 1), x), 1, (1.0,)),
    "HardSigmoid": (lambda x, a, b: np.minimum(np.maximum(a * x + b, 0), 1), 2, (0.2, 0.5)),
    "LeakyRelu": (lambda x, a: np.where(x >= 0, x, a * x), 1, (0.01,)),
    "Relu": (lambda x: np.maximum(0, x), 0, ()),
    "ScaledTanh": (lambda x, a, b: a * np.tanh(b * x), 2, (1.0, 1.0)),
    "Sigmoid": (lambda x: 1 / (1 + np.exp(-x)), 0, ()),
    "Softplus": (lambda x: np.logaddexp(0, x), 0, ()),
    "Softsign": (lambda x: x / (1 + abs(x)), 0, ()),
    "Tanh": (lambda x: np.tanh(x), 0, ()),
    "ThresholdedRelu": (lambda x, a: np.where(x > a, x, 0), 1, (1.0,)),
}
"""Each function, how many of alpha and beta it takes, and what these are if nothing is said."""
DEFAULT = {"LSTM": ("Sigmoid", "Tanh", "Tanh"), "GRU": ("Sigmoid", "Tanh"), "RNN": ("Tanh",)}
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
WALKS = {"forward": (1,), "reverse": (-1,), "bidirectional": (1, -1)}


def recurrent(
    kind: str,
    x: Any,
    w: Any,
    r: Any,
    b: Any = None,
    lens: Any = None,
    h0: Any = None,
    c0: Any = None,
    p: Any = None,
    *,
    direction: str = "forward",
    activations: Sequence[str] = (),
    activation_alpha: Sequence[float] = (),
    activation_beta: Sequence[float] = (),
    clip: float | None = None,
    **flags: int,
) -> tuple[Any, ...]:
    """(Y, Y_h) of ``kind``, and Y_c of an LSTM."""
    steps, batch, _ = x.shape
    count, hidden = len(WALKS[direction]), r.shape[-1]
    functions = bound(activations or DEFAULT[kind] * count, list(activation_alpha), list(activation_beta), clip)
    each = len(functions) // count
    y = np.zeros((steps, count, batch, hidden))
    last = np.zeros((2, count, batch, hidden))
    for d, walk in enumerate(WALKS[direction]):
        bias = np.zeros((2, GATES[kind], hidden)) if b is None else b[d].reshape(2, GATES[kind], hidden)
        weights = (w[d].reshape(GATES[kind], hidden, -1), r[d].reshape(GATES[kind], hidden, hidden), *bias)
        peep = np.zeros((3, hidden)) if p is None else p[d].reshape(3, hidden)
        for n in range(batch):
            h = np.zeros(hidden) if h0 is None else h0[d, n]
            c = np.zeros(hidden) if c0 is None else c0[d, n]
            for t in range(steps if lens is None else int(lens[n]))[::walk]:
                h, c = CELLS[kind](x[t, n], h, c, weights, peep, functions[d * each : (d + 1) * each], flags)
                y[t, d, n] = h
            last[:, d, n] = h, c
    return (y, *last) if kind == "LSTM" else (y, last[0])


def bound(
    names: Sequence[str], alphas: list[float], betas: list[float], clip: float | None
) -> list[Callable[..., Any]]:
    found = []
    for name in names:
        function, arity, numbers = FUNCTIONS[name]
        given = [alphas.pop(0) if alphas else numbers[0]] if arity else []
        given += [betas.pop(0) if betas else numbers[1]] if arity > 1 else []

        def called(x: Any, function: Any = function, given: Any = tuple(given)) -> Any:
            return function(x if clip is None else np.minimum(np.maximum(x, -clip), clip), *given)

        called.free = lambda x, function=function, given=tuple(given): function(x, *given)  # type: ignore[attr-defined]
        found.append(called)
    return found


def lstm_cell(x: Any, h: Any, c: Any, weights: Any, peep: Any, functions: Any, flags: Any) -> tuple[Any, Any]:
    w, r, wb, rb = weights
    f, g, k = functions
    i, o, forget, new = (w[n] @ x + r[n] @ h + wb[n] + rb[n] for n in range(4))
    i = f(i + peep[0] * c)
    forget = 1 - i if flags.get("input_forget") else f(forget + peep[2] * c)
    c = forget * c + i * g(new)
    return f(o + peep[1] * c) * k.free(c), c


def gru_cell(x: Any, h: Any, c: Any, weights: Any, peep: Any, functions: Any, flags: Any) -> tuple[Any, Any]:
    w, r, wb, rb = weights
    f, g = functions
    z, reset = (f(w[n] @ x + r[n] @ h + wb[n] + rb[n]) for n in range(2))
    if flags.get("linear_before_reset"):
        new = g(w[2] @ x + reset * (r[2] @ h + rb[2]) + wb[2])
    else:
        new = g(w[2] @ x + r[2] @ (reset * h) + rb[2] + wb[2])
    return (1 - z) * new + z * h, c


def rnn_cell(x: Any, h: Any, c: Any, weights: Any, peep: Any, functions: Any, flags: Any) -> tuple[Any, Any]:
    w, r, wb, rb = (weight[0] for weight in weights)
    return functions[0](w @ x + r @ h + wb + rb), c


CELLS = {"LSTM": lstm_cell, "GRU": gru_cell, "RNN": rnn_cell}
