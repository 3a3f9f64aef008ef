"""Optimizers, as expressions: new parameters and new moments from old ones, gradients and a learning rate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lora_graph import checks
from lora_graph.ir.value import Value
from lora_graph.ops.functions import pow as power
from lora_graph.train.schedule import Schedule

Slots = Mapping[str, Value]


@dataclass(frozen=True)
class Optimizer:
    """How a parameter moves. ``lr`` is a number, or a schedule: a function from the step (from 0) to a number."""

    lr: float | Schedule

    def __post_init__(self) -> None:
        if not callable(self.lr):
            checks.at_least_zero("lr", self.lr)

    def rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0; ValueError where a schedule gives a negative or infinite one."""
        return checks.at_least_zero("lr", self.lr(step) if callable(self.lr) else self.lr)

    @property
    def slots(self) -> tuple[str, ...]:
        """The names of the arrays kept for each parameter, of its shape and zero at first."""
        return ()

    def update(self, p: Value, g: Value, slots: Slots, lr: Value, count: Value) -> tuple[Value, dict[str, Value]]:
        """The new parameter and the new slots.

        ``count`` is the number of steps including this one, in float64; where only a part of ``p`` takes part, it has
        one number for each part and broadcasts to ``p``. ``lr`` has the dtype of ``p``.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement update")


@dataclass(frozen=True)
class SGD(Optimizer):
    """v ← μ v + g + λ p;  p ← p - η v  (v = g + λ p at the first step)."""

    lr: float | Schedule = 0.01
    momentum: float = 0.0
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.below_one("momentum", self.momentum)
        checks.at_least_zero("weight_decay", self.weight_decay)

    @property
    def slots(self) -> tuple[str, ...]:
        return ("velocity",) if self.momentum else ()

    def update(self, p: Value, g: Value, slots: Slots, lr: Value, count: Value) -> tuple[Value, dict[str, Value]]:
        if self.weight_decay:
            g = g + p * self.weight_decay
        if not self.momentum:
            return p - g * lr, {}
        velocity = slots["velocity"] * self.momentum + g
        return p - velocity * lr, {"velocity": velocity}


@dataclass(frozen=True)
class Adam(Optimizer):
    """m ← β₁ m + (1-β₁) g;  v ← β₂ v + (1-β₂) g²;  p ← p - η m̂ / (√v̂ + ε)  (Kingma & Ba, 2015).

    m̂ = m / (1-β₁ᵗ), v̂ = v / (1-β₂ᵗ). ``weight_decay`` λ adds λ p to the gradient.
    """

    lr: float | Schedule = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.betas, tuple | list) or len(self.betas) != 2:
            raise TypeError(f"betas must be a pair of numbers, got {self.betas!r}")
        for beta in self.betas:
            checks.below_one("betas", beta)
        checks.positive("eps", self.eps)
        checks.at_least_zero("weight_decay", self.weight_decay)

    @property
    def slots(self) -> tuple[str, ...]:
        return "mean", "square"

    def update(self, p: Value, g: Value, slots: Slots, lr: Value, count: Value) -> tuple[Value, dict[str, Value]]:
        if self.weight_decay:
            g = g + p * self.weight_decay
        return self._move(p, g, slots, lr, count)

    def _move(self, p: Value, g: Value, slots: Slots, lr: Value, count: Value) -> tuple[Value, dict[str, Value]]:
        first, second = self.betas
        mean = slots["mean"] * first + g * (1 - first)
        square = slots["square"] * second + g * g * (1 - second)
        rate = lr / (1.0 - power(first, count)).astype(p.dtype)
        root = (1.0 / (1.0 - power(second, count)).sqrt()).astype(p.dtype)
        return p - mean * rate / (square.sqrt() * root + self.eps), {"mean": mean, "square": square}


@dataclass(frozen=True)
class AdamW(Adam):
    """Adam with decoupled weight decay: p ← p - η λ p beside Adam's step (Loshchilov & Hutter, 2019)."""

    weight_decay: float = 0.01

    def update(self, p: Value, g: Value, slots: Slots, lr: Value, count: Value) -> tuple[Value, dict[str, Value]]:
        decayed = p * (1.0 - lr * self.weight_decay) if self.weight_decay else p
        return self._move(decayed, g, slots, lr, count)
