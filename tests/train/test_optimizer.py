"""Every optimizer, schedule and kind of clipping against its formula in NumPy."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import lora_graph as lg
from lora_graph.train import TrainingStep
from tests.reference import close
from tests.train.models import Array, Linear, mse_gradient

STEPS = 7


def sgd(lr: float, momentum: float = 0.0, decay: float = 0.0) -> Callable[..., Any]:
    def run(w: Array, gradient: Callable[[Array, int], Array]) -> list[Array]:
        velocity, found = np.zeros_like(w), []
        for t in range(STEPS):
            velocity = momentum * velocity + gradient(w, t) + decay * w
            w = w - lr * velocity
            found.append(w)
        return found

    return run


def adam(lr: float, betas: tuple[float, float], eps: float, coupled: float, decoupled: float) -> Callable[..., Any]:
    def run(w: Array, gradient: Callable[[Array, int], Array]) -> list[Array]:
        m, v, found = np.zeros_like(w), np.zeros_like(w), []
        for t in range(STEPS):
            g = gradient(w, t) + coupled * w
            m = betas[0] * m + (1 - betas[0]) * g
            v = betas[1] * v + (1 - betas[1]) * g**2
            first, second = m / (1 - betas[0] ** (t + 1)), v / (1 - betas[1] ** (t + 1))
            w = w - lr * decoupled * w - lr * first / (np.sqrt(second) + eps)
            found.append(w)
        return found

    return run


CASES: list[tuple[str, lg.train.Optimizer, Callable[..., Any]]] = [
    ("plain", lg.SGD(0.1), sgd(0.1)),
    ("momentum", lg.SGD(0.1, momentum=0.9), sgd(0.1, 0.9)),
    ("decay", lg.SGD(0.1, weight_decay=0.3), sgd(0.1, 0.0, 0.3)),
    ("both", lg.SGD(0.1, momentum=0.7, weight_decay=0.3), sgd(0.1, 0.7, 0.3)),
    ("Adam", lg.Adam(0.05), adam(0.05, (0.9, 0.999), 1e-8, 0, 0)),
    ("Adam, all set", lg.Adam(0.05, (0.5, 0.9), 1e-3, 0.2), adam(0.05, (0.5, 0.9), 1e-3, 0.2, 0)),
    ("Adam, no first moment", lg.Adam(0.05, (0.0, 0.9)), adam(0.05, (0.0, 0.9), 1e-8, 0, 0)),
    ("AdamW", lg.AdamW(0.05), adam(0.05, (0.9, 0.999), 1e-8, 0, 0.01)),
    ("AdamW, all set", lg.AdamW(0.05, (0.8, 0.95), 1e-4, 0.5), adam(0.05, (0.8, 0.95), 1e-4, 0, 0.5)),
]


def data(rng: np.random.Generator) -> tuple[Array, Array, Array]:
    return rng.standard_normal((3, 2)), rng.standard_normal((STEPS, 5, 3)), rng.standard_normal((STEPS, 5, 2))


@pytest.mark.parametrize(("optimizer", "truth"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-13), (np.float32, 2e-6)])
def test_steps_are_those_of_the_formula(
    optimizer: Any, truth: Any, dtype: Any, tolerance: float, rng: np.random.Generator
) -> None:
    w, x, t = data(rng)
    model = Linear(w, dtype=dtype)
    training = TrainingStep(model, "mse", optimizer)
    for step, expected in enumerate(truth(w, lambda w, i: mse_gradient(w, x[i], t[i]))):
        training.run(x[step], t[step])
        training.sync()
        close(model.get_parameter("w").astype(np.float64), expected, tolerance)


def test_bias_correction_is_exact_in_float32() -> None:
    """1 - β₂ is a difference of close numbers: in float32 it would be off by 1e-5, and the first step by half that."""
    model = Linear(np.zeros((1, 1)), dtype=np.float32)
    training = TrainingStep(model, "mse", lg.Adam(1.0, (0.9, 0.99999)))
    training.run(np.ones((1, 1)), np.ones((1, 1)))
    training.sync()
    assert abs(float(model.get_parameter("w").item()) - 1) < 1e-6


class Signed(lg.train.Optimizer):
    """p ← p - η sign(g), an optimizer of one's own."""

    def update(self, p: Any, g: Any, slots: Any, lr: Any, count: Any) -> Any:
        return p - lg.ops.sign(g) * lr / count.astype(p.dtype), {}


def test_an_optimizer_of_ones_own(rng: np.random.Generator) -> None:
    w, x, t = data(rng)
    model = Linear(w)
    training = TrainingStep(model, "mse", Signed(0.1))
    for step in range(STEPS):
        w = w - 0.1 * np.sign(mse_gradient(w, x[step], t[step])) / (step + 1)
        training.run(x[step], t[step])
    training.sync()
    close(model.get_parameter("w"), w, 1e-13)


# -- schedules ---------------------------------------------------------------------------------------------------------


def test_schedules_by_their_formulas() -> None:
    warm = [0.3 * (t + 1) / 4 for t in range(4)]
    cosine = [0.1 + 0.2 * (1 + math.cos(math.pi * (t - 4) / 6)) / 2 for t in range(4, 11)]
    line = [0.3 - 0.2 * (t - 4) / 6 for t in range(4, 11)]
    for schedule, after in (
        (lg.CosineSchedule(0.3, 10, warmup=4, floor=0.1), cosine),
        (lg.LinearSchedule(0.3, 10, warmup=4, floor=0.1), line),
    ):
        np.testing.assert_allclose([schedule(t) for t in range(11)], warm + after, rtol=1e-14)
        assert schedule(10) == schedule(1000) == pytest.approx(0.1)
        assert schedule(4) == 0.3
    assert [lg.StepSchedule(1.0, 3, 0.5)(t) for t in range(8)] == [1, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25]
    assert lg.CosineSchedule(1.0, 2)(1) == pytest.approx(0.5)


@pytest.mark.parametrize(
    "schedule", [lg.CosineSchedule(0.3, 6, warmup=2), lg.LinearSchedule(0.3, 5), lambda step: 0.1 / (step + 1)]
)
def test_the_rate_of_each_step_is_that_of_the_schedule(schedule: Any, rng: np.random.Generator) -> None:
    w, x, t = data(rng)
    model = Linear(w)
    history = lg.fit(
        model, list(zip(x, t, strict=True)), optimizer=lg.SGD(schedule, momentum=0.5), epochs=1, progress=False
    )
    velocity = np.zeros_like(w)
    for step in range(STEPS):
        velocity = 0.5 * velocity + mse_gradient(w, x[step], t[step])
        w = w - schedule(step) * velocity
    close(model.get_parameter("w"), w, 1e-13)
    assert history.learning_rates == [schedule(step) for step in range(STEPS)]


def test_a_schedule_is_asked_once_per_step(rng: np.random.Generator) -> None:
    w, x, t = data(rng)
    asked: list[int] = []

    def schedule(step: int) -> float:
        asked.append(step)
        return 0.1

    lg.fit(Linear(w), list(zip(x, t, strict=True)), optimizer=lg.SGD(schedule), accumulate=2)
    assert asked == [0, 1, 2, 3]


@pytest.mark.parametrize("rate", [float("nan"), -0.1, float("inf")])
def test_a_schedule_must_give_rates(rate: float, rng: np.random.Generator) -> None:
    w, x, t = data(rng)
    model = Linear(w)
    training = TrainingStep(model, "mse", lg.SGD(lambda step: rate))
    with pytest.raises(ValueError, match="lr"):
        training.run(x[0], t[0])
    assert training.count == 0


# -- clipping ----------------------------------------------------------------------------------------------------------


class Two(lg.Layer):
    """y = x w + b with two parameters, whose norm is one."""

    def __init__(self, w: Array, b: Array):
        super().__init__(input_shape=(3,), output_shape=(2,), dtype=np.float64)
        self.add_parameter("w", w)
        self.add_parameter("b", b)

    def build(self, ctx: lg.Context, x: lg.Value) -> lg.Value:
        return x @ ctx.param("w") + ctx.param("b")


@pytest.mark.parametrize(
    ("norm", "value"), [(None, None), (0.5, None), (1e6, None), (None, 0.2), (None, 1e6), (0.3, 0.2), (1e-9, None)]
)
@pytest.mark.parametrize("accumulated", [False, True])
def test_clipping_by_its_formula(norm: Any, value: Any, accumulated: bool, rng: np.random.Generator) -> None:
    w, x, t = data(rng)
    b = rng.standard_normal(2)
    model = Two(w, b)
    training = TrainingStep(model, "mse", lg.SGD(0.1), clip_norm=norm, clip_value=value, accumulated=accumulated)
    for step in range(STEPS):
        error = x[step] @ w + b - t[step]
        found = [2 * x[step].T @ error / error.size, 2 * error.sum(0) / error.size]
        length = math.sqrt(sum(float((g**2).sum()) for g in found))
        if value is not None:
            found = [np.clip(g, -value, value) for g in found]
        if norm is not None:
            found = [g * min(1, norm / math.sqrt(sum(float((g**2).sum()) for g in found))) for g in found]
        w, b = w - 0.1 * found[0], b - 0.1 * found[1]
        result = training.run_batches([(x[step], t[step])])
        assert result.gradient_norm == pytest.approx(length, rel=1e-12)
    training.sync()
    close(model.get_parameter("w"), w, 1e-13)
    close(model.get_parameter("b"), b, 1e-13)


def test_clipping_a_gradient_of_zero_changes_nothing() -> None:
    model = Linear(np.ones((2, 2)))
    training = TrainingStep(model, "mse", lg.SGD(0.1), clip_norm=1.0)
    assert training.run(np.zeros((3, 2)), np.zeros((3, 2))) == 0
    training.sync()
    assert (model.get_parameter("w") == 1).all()


# -- bad values --------------------------------------------------------------------------------------------------------

BAD: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: lg.SGD(-0.1), ValueError, "lr must be at least 0, got -0.1"),
    (lambda: lg.SGD(float("nan")), ValueError, "lr must be finite"),
    (lambda: lg.SGD("fast"), TypeError, "lr must be a number"),  # type: ignore[arg-type]
    (lambda: lg.SGD(0.1, momentum=1.0), ValueError, r"momentum must be in \[0, 1\), got 1.0"),
    (lambda: lg.SGD(0.1, weight_decay=-1), ValueError, "weight_decay must be at least 0"),
    (lambda: lg.Adam(0.1, (0.9, 1.0)), ValueError, "betas"),
    (lambda: lg.Adam(0.1, 0.9), TypeError, "betas must be a pair"),  # type: ignore[arg-type]
    (lambda: lg.Adam(0.1, eps=0), ValueError, "eps must be positive, got 0"),
    (lambda: lg.AdamW(True), TypeError, "lr must be a number"),
    (lambda: lg.CosineSchedule(0.1, 5, warmup=5), ValueError, "steps must be at least 6, got 5"),
    (lambda: lg.LinearSchedule(-1, 5), ValueError, "peak must be at least 0"),
    (lambda: lg.LinearSchedule(1, 5, warmup=-1), ValueError, "warmup"),
    (lambda: lg.StepSchedule(1.0, 0), ValueError, "every must be at least 1, got 0"),
    (lambda: TrainingStep(Linear(np.ones((1, 1))), clip_norm=0), ValueError, "clip_norm must be positive, got 0"),
    (lambda: TrainingStep(Linear(np.ones((1, 1))), clip_value=-1), ValueError, "clip_value must be positive"),
    (lambda: TrainingStep(Linear(np.ones((1, 1))), optimizer="adam"), TypeError, "optimizer must be an Optimizer"),  # type: ignore[arg-type]
    (lambda: TrainingStep("model"), TypeError, "model must be a Layer"),  # type: ignore[arg-type]
]


@pytest.mark.parametrize(("attempt", "kind", "message"), BAD)
def test_bad_values_are_named(attempt: Callable[[], Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        attempt()
