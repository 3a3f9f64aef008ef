"""The network whose training step is measured, and a step of it by hand.

y = relu(x (W₀ + A₀B₀) + b₀) (W₁ + A₁B₁) + b₁ with frozen W and b, the mean of (y - t)² as loss, and Adam on A and B;
``depth`` times that, with a relu between, where it is more than 1. Every contender starts from the same arrays and is
handed the same batch, so their losses have to agree.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
State = dict[str, Array]
Step = Callable[[Array, Array], float]
"""One optimizer step on a batch of inputs and targets; returns the loss before the update."""

LEARNING_RATE = 1e-3
BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8
KINDS = ("W", "b", "A", "B")
TRAINED = ("0.A", "0.B", "1.A", "1.B")


@dataclass(frozen=True)
class Problem:
    """Sizes of the network and of a batch, and what runs it: ``"cpu"`` or ``"cuda"``."""

    batch: int = 64
    width: int = 768
    hidden: int = 3072
    rank: int = 8
    depth: int = 1
    dtype: str = "float32"
    provider: str = "cpu"

    @property
    def layers(self) -> list[tuple[int, int]]:
        """Inputs and outputs of each dense layer."""
        return [(self.width, self.hidden), (self.hidden, self.width)] * self.depth

    @property
    def parameters(self) -> tuple[str, ...]:
        return tuple(f"{index}.{kind}" for index in range(len(self.layers)) for kind in KINDS)

    def initial(self, name: str) -> Array:
        """The parameter ``name`` before the first step. B is not zero, so that every gradient counts at once."""
        index, kind = name.split(".")
        inner, outer = self.layers[int(index)]
        shape, scale = {
            "W": ((inner, outer), inner**-0.5),
            "b": ((outer,), 0.1),
            "A": ((inner, self.rank), self.rank**-0.5),
            "B": ((self.rank, outer), 0.01),
        }[kind]
        seed = self.parameters.index(name)
        array = np.random.default_rng(seed).standard_normal(shape, np.dtype(self.dtype).type)
        array *= scale
        return array

    def data(self) -> tuple[Array, Array]:
        """One batch of inputs and of targets."""
        rng = np.random.default_rng(len(self.parameters))
        x, t = rng.standard_normal((2, self.batch, self.width), np.dtype(self.dtype).type)
        return x, t


def numpy_gradients(p: State, x: Array, t: Array) -> tuple[float, State]:
    """The loss and its gradients, by hand."""
    u0 = x @ p["0.A"]
    h = x @ p["0.W"]
    h += u0 @ p["0.B"]
    h += p["0.b"]
    np.maximum(h, 0, out=h)
    u1 = h @ p["1.A"]
    error = h @ p["1.W"]
    error += u1 @ p["1.B"]
    error += p["1.b"]
    error -= t
    loss = float(np.vdot(error, error)) / error.size

    error *= 2 / error.size
    du1 = error @ p["1.B"].T
    dh = error @ p["1.W"].T
    dh += du1 @ p["1.A"].T
    dh *= h > 0
    du0 = dh @ p["0.B"].T
    return loss, {"0.A": x.T @ du0, "0.B": u0.T @ dh, "1.A": h.T @ du1, "1.B": u1.T @ error}


def numpy_step(problem: Problem) -> Step:
    """Hand-written NumPy: no gradient of what is frozen or of the input, in place wherever it costs nothing."""
    p = {name: problem.initial(name) for name in problem.parameters}
    moments = {name: (np.zeros_like(p[name]), np.zeros_like(p[name])) for name in TRAINED}
    count = 0

    def step(x: Array, t: Array) -> float:
        nonlocal count
        count += 1
        loss, gradients = numpy_gradients(p, x, t)
        rate = LEARNING_RATE / (1 - BETA1**count)
        correction = (1 - BETA2**count) ** -0.5
        for name, gradient in gradients.items():
            m, v = moments[name]
            m *= BETA1
            m += (1 - BETA1) * gradient
            v *= BETA2
            np.multiply(gradient, gradient, out=gradient)
            gradient *= 1 - BETA2
            v += gradient
            divisor = np.sqrt(v, out=gradient)
            divisor *= correction
            divisor += EPSILON
            np.divide(m, divisor, out=divisor)
            divisor *= rate
            p[name] -= divisor
        return loss

    return step
