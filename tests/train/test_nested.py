"""DyLoRA's own training loop."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import lora_graph as lg
from lora_graph.errors import TrainingError
from tests.reference import close
from tests.train.models import batches, copied, nested_model, same_bits


def split(count: int) -> tuple[list[Any], list[Any]]:
    data = batches(count)
    return [x for x, _ in data], [t for _, t in data]


def test_it_is_gradient_descent_with_a_rank_for_every_batch() -> None:
    model, start = nested_model(), nested_model()
    xs, ts = split(3)
    means = model.train_with_nested_dropout(xs, ts, 4, 0.1, "mse")
    base, losses = start.state, []
    a, b = start.get_parameter("lora.A"), start.get_parameter("lora.B")
    for _ in range(4):
        for x, t in zip(xs, ts, strict=True):
            r = int(start.rng.choice((1, 2, 3)))
            error = x @ base["base.weight"] + base["base.bias"] + (x @ a[:, :r]) @ b[:r] - t
            losses.append((error**2).mean())
            g = 2 * error / error.size
            da, db = x.T @ g @ b[:r].T, (x @ a[:, :r]).T @ g
            a[:, :r] -= 0.1 * da
            b[:r] -= 0.1 * db
    close(np.asarray(means), np.reshape(losses, (4, 3)).mean(axis=1), 1e-13)
    close(model.get_parameter("lora.A"), a, 1e-13)
    close(model.get_parameter("lora.B"), b, 1e-13)


def test_it_differentiates_the_loss_it_is_given() -> None:
    model = nested_model((3,))
    xs, _ = split(1)
    labels = np.arange(8) % 4
    before = model.get_parameter("lora.B")
    base, a = model.state, model.get_parameter("lora.A")
    model.train_with_nested_dropout(xs, [labels], 1, 0.1, "cross_entropy")
    z = xs[0] @ base["base.weight"] + base["base.bias"] + (xs[0] @ a) @ before
    softmax = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    gradient = (xs[0] @ a).T @ (softmax - np.eye(4)[labels]) / 8
    close(model.get_parameter("lora.B"), before - 0.1 * gradient, 1e-13)
    own = nested_model((3,))
    own.train_with_nested_dropout(xs, [labels], 1, 0.1, lambda p, t: lg.train.LOSSES["cross_entropy"](p, t))
    assert same_bits(own.state, model.state)


def failing(p: lg.Value, t: lg.Value) -> lg.Value:
    raise ArithmeticError("a loss that fails")


@pytest.mark.parametrize("mode", [True, False])
def test_the_mode_is_restored(mode: bool) -> None:
    model = nested_model().set_training(mode)
    xs, ts = split(2)
    model.train_with_nested_dropout(xs, ts, 1, 0.1, "mse")
    assert model.is_training is mode
    before = copied(model)
    with pytest.raises(ArithmeticError, match="a loss that fails"):
        model.train_with_nested_dropout(xs, ts, 1, 0.1, failing)
    xs[0][0, 0] = np.nan
    with pytest.raises(TrainingError, match="step 1"):
        model.train_with_nested_dropout(xs, ts, 1, 0.1, "mse")
    assert model.is_training is mode
    assert all(branch.is_training is mode for branch in model.branches.values())
    assert same_bits(model.state, before)


def test_no_epochs_change_nothing() -> None:
    model = nested_model()
    before = copied(model)
    xs, ts = split(2)
    assert model.train_with_nested_dropout(xs, ts, 0, 0.1, "mse") == []
    assert same_bits(model.state, before)


BAD: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"epochs": -1}, ValueError, "epochs must be at least 0, got -1"),
    ({"epochs": 1.0}, TypeError, "epochs must be an int"),
    ({"learning_rate": 0}, ValueError, "learning_rate must be positive, got 0"),
    ({"learning_rate": "fast"}, TypeError, "learning_rate must be a number"),
    ({"loss_function": "mae"}, ValueError, "loss must be one of"),
    ({"inputs": [], "targets": []}, ValueError, "at least one"),
    ({"inputs": [np.ones((2, 6))]}, ValueError, "got 1, 2"),
]


@pytest.mark.parametrize(("changed", "kind", "message"), BAD)
def test_bad_arguments(changed: dict[str, Any], kind: type[Exception], message: str) -> None:
    model = nested_model().eval()
    before = copied(model)
    xs, ts = split(2)
    given = {"inputs": xs, "targets": ts, "epochs": 1, "learning_rate": 0.1, "loss_function": "mse", **changed}
    with pytest.raises(kind, match=message):
        model.train_with_nested_dropout(**given)
    assert not model.is_training
    assert same_bits(model.state, before)
