"""Learning-rate schedules: the rate at each step, counted from 0."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from lora_graph import checks

Schedule = Callable[[int], float]


@dataclass(frozen=True)
class Decay:
    """η_t = ``peak`` (t+1) / ``warmup`` for t < ``warmup``, then ``after`` the share of the steps that are done."""

    peak: float
    steps: int
    warmup: int = 0
    floor: float = 0.0

    def __post_init__(self) -> None:
        checks.at_least_zero("peak", self.peak)
        checks.at_least_zero("floor", self.floor)
        checks.integer("warmup", self.warmup, 0)
        checks.integer("steps", self.steps, self.warmup + 1)

    def __call__(self, step: int) -> float:
        if step < self.warmup:
            return self.peak * (step + 1) / self.warmup
        return self.after(min(1.0, (step - self.warmup) / (self.steps - self.warmup)))

    def after(self, progress: float) -> float:
        """The rate when ``progress``, from 0 to 1, of the steps after the warm-up are done."""
        raise NotImplementedError(f"{type(self).__name__} must implement after")


class CosineSchedule(Decay):
    """η_t = ``peak`` (t+1) / ``warmup`` for t < ``warmup``, then half a cosine from ``peak`` to ``floor``.

    It starts at step ``warmup``, reaches ``floor`` at step ``steps`` and stays there.
    """

    def after(self, progress: float) -> float:
        return self.floor + (self.peak - self.floor) * 0.5 * (1 + math.cos(math.pi * progress))


class LinearSchedule(Decay):
    """η_t = ``peak`` (t+1) / ``warmup`` for t < ``warmup``, then a line from ``peak`` to ``floor``.

    It starts at step ``warmup``, reaches ``floor`` at step ``steps`` and stays there.
    """

    def after(self, progress: float) -> float:
        return self.peak + (self.floor - self.peak) * progress


@dataclass(frozen=True)
class StepSchedule:
    """η_t = ``start`` · ``factor`` ^ ⌊t / every⌋."""

    start: float
    every: int
    factor: float = 0.1

    def __post_init__(self) -> None:
        checks.at_least_zero("start", self.start)
        checks.at_least_zero("factor", self.factor)
        checks.integer("every", self.every, 1)

    def __call__(self, step: int) -> float:
        return self.start * self.factor ** (step // self.every)
