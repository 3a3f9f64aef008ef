"""Learning-rate schedules: the rate at each step, counted from 0."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

Schedule = Callable[[int], float]


@dataclass(frozen=True)
class CosineSchedule:
    """η_t: linear from 0 over ``warmup`` steps, then half a cosine from ``peak`` to ``floor`` at step ``steps``."""

    peak: float
    steps: int
    warmup: int = 0
    floor: float = 0.0

    def __call__(self, step: int) -> float:
        if step < self.warmup:
            return self.peak * (step + 1) / self.warmup
        progress = min(1.0, (step - self.warmup) / max(1, self.steps - self.warmup))
        return self.floor + (self.peak - self.floor) * 0.5 * (1 + math.cos(math.pi * progress))


@dataclass(frozen=True)
class LinearSchedule:
    """η_t: linear from 0 over ``warmup`` steps, then linear from ``peak`` to ``floor`` at step ``steps``."""

    peak: float
    steps: int
    warmup: int = 0
    floor: float = 0.0

    def __call__(self, step: int) -> float:
        if step < self.warmup:
            return self.peak * (step + 1) / self.warmup
        progress = min(1.0, (step - self.warmup) / max(1, self.steps - self.warmup))
        return self.peak + (self.floor - self.peak) * progress


@dataclass(frozen=True)
class StepSchedule:
    """η_t = ``start`` · ``factor`` ^ ⌊t / every⌋."""

    start: float
    every: int
    factor: float = 0.1

    def __call__(self, step: int) -> float:
        return self.start * self.factor ** (step // self.every)
