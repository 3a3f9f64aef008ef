"""Learning-rate schedules: the rate at each step, counted from 0."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from lora_graph import checks

Schedule = Callable[[int], float]


@dataclass(frozen=True)
class CosineSchedule:
    """η_t = ``peak`` (t+1) / ``warmup`` for t < ``warmup``, then half a cosine from ``peak`` to ``floor``.

    It starts at step ``warmup``, reaches ``floor`` at step ``steps`` and stays there.
    """

    peak: float
    steps: int
    warmup: int = 0
    floor: float = 0.0

    def __post_init__(self) -> None:
        _check_rates(peak=self.peak, floor=self.floor)
        checks.integer("warmup", self.warmup, 0)
        checks.integer("steps", self.steps, self.warmup + 1)

    def __call__(self, step: int) -> float:
        if step < self.warmup:
            return self.peak * (step + 1) / self.warmup
        progress = min(1.0, (step - self.warmup) / (self.steps - self.warmup))
        return self.floor + (self.peak - self.floor) * 0.5 * (1 + math.cos(math.pi * progress))


@dataclass(frozen=True)
class LinearSchedule:
    """η_t = ``peak`` (t+1) / ``warmup`` for t < ``warmup``, then a line from ``peak`` to ``floor``.

    It starts at step ``warmup``, reaches ``floor`` at step ``steps`` and stays there.
    """

    peak: float
    steps: int
    warmup: int = 0
    floor: float = 0.0

    def __post_init__(self) -> None:
        _check_rates(peak=self.peak, floor=self.floor)
        checks.integer("warmup", self.warmup, 0)
        checks.integer("steps", self.steps, self.warmup + 1)

    def __call__(self, step: int) -> float:
        if step < self.warmup:
            return self.peak * (step + 1) / self.warmup
        progress = min(1.0, (step - self.warmup) / (self.steps - self.warmup))
        return self.peak + (self.floor - self.peak) * progress


@dataclass(frozen=True)
class StepSchedule:
    """η_t = ``start`` · ``factor`` ^ ⌊t / every⌋."""

    start: float
    every: int
    factor: float = 0.1

    def __post_init__(self) -> None:
        _check_rates(start=self.start, factor=self.factor)
        checks.integer("every", self.every, 1)

    def __call__(self, step: int) -> float:
        return self.start * self.factor ** (step // self.every)


def _check_rates(**rates: float) -> None:
    for name, rate in rates.items():
        if checks.number(name, rate) < 0:
            raise ValueError(f"{name} must be at least 0, got {rate}")
