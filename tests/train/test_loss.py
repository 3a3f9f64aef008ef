"""Losses against their formulas, also where a naive formula overflows, and their gradients against differences."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy.special import logsumexp

import lora_graph as lg
from lora_graph.autodiff import gradients
from lora_graph.interpret import compile_graph
from lora_graph.ir import Graph, apply, input  # noqa: A004
from lora_graph.ir.leaves import Input
from lora_graph.ir.types import type_of
from lora_graph.train import LOSSES, TrainingStep
from lora_graph.train.loss import loss_of
from tests.reference import close, differences
from tests.train.models import Array, Linear


def evaluated(loss: Any, prediction: Array, target: Array) -> tuple[float, Array]:
    """The loss and its gradient with respect to the prediction, by the interpreter."""
    p, t = apply(Input("p", type_of(prediction))), apply(Input("t", type_of(target)))
    value = loss_of(loss, p, t)
    graph = Graph((p, t), {"loss": value, "gradient": gradients(value, [p])[0]})
    found = compile_graph(graph).run({"p": prediction, "t": target}, {})
    return float(found["loss"]), found["gradient"]


def mse(p: Array, t: Array) -> Any:
    return ((p - t) ** 2).mean()


def cross_entropy(z: Array, t: Array) -> Any:
    log_p = z - logsumexp(z, axis=-1, keepdims=True)
    if t.shape == z.shape:
        return -(t * log_p).sum(-1).mean()
    return -np.take_along_axis(log_p, t[..., None], -1).mean()


def binary_cross_entropy(z: Array, t: Array) -> Any:
    return (t * np.logaddexp(0, -z) + (1 - t) * np.logaddexp(0, z)).mean()


def case(rng: np.random.Generator, name: str, shape: tuple[int, ...], kind: str) -> tuple[Array, Array]:
    """A prediction and a target of that kind."""
    z = rng.standard_normal(shape) * 3
    if kind == "labels":
        return z, rng.integers(0, shape[-1], shape[:-1])
    if kind == "one-hot":
        return z, np.eye(shape[-1], dtype=np.int64)[rng.integers(0, shape[-1], shape[:-1])]
    if kind == "distribution":
        return z, rng.dirichlet(np.ones(shape[-1]), shape[:-1])
    return z, rng.integers(0, 2, shape) if kind == "binary" else rng.uniform(0, 1, shape)


CASES = [
    ("mse", (5, 3), "real", mse),
    ("mse", (2, 4, 3), "real", mse),
    ("mse", (5, 3), "binary", mse),
    ("cross_entropy", (5, 3), "labels", cross_entropy),
    ("cross_entropy", (2, 4, 3), "labels", cross_entropy),
    ("cross_entropy", (2, 3, 4, 3), "labels", cross_entropy),
    ("cross_entropy", (5, 3), "one-hot", cross_entropy),
    ("cross_entropy", (2, 4, 3), "one-hot", cross_entropy),
    ("cross_entropy", (2, 4, 3), "distribution", cross_entropy),
    ("cross_entropy", (5, 1), "labels", cross_entropy),
    ("binary_cross_entropy", (5, 3), "binary", binary_cross_entropy),
    ("binary_cross_entropy", (2, 4, 3), "real", binary_cross_entropy),
    ("binary_cross_entropy", (7, 1), "binary", binary_cross_entropy),
]


@pytest.mark.parametrize(("name", "shape", "kind", "truth"), CASES)
def test_value_and_gradient(
    name: str, shape: tuple[int, ...], kind: str, truth: Callable[..., Any], rng: np.random.Generator
) -> None:
    z, t = case(rng, name, shape, kind)
    value, gradient = evaluated(name, z, t)
    close(value, truth(z, t), 1e-13)
    close(gradient, differences(truth, [z, t], 0), 1e-9)
    rounded, _ = evaluated(name, z.astype(np.float32), t.astype(np.float32) if t.dtype.kind == "f" else t)
    close(rounded, truth(z, t), 1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [1e2, 1e4])
def test_extreme_logits(dtype: Any, size: float) -> None:
    z = np.asarray([[size, -size, 0], [-size, -size, -size], [0, size, size], [size, -size, -size]], dtype)
    labels = np.asarray([1, 2, 0, 0])
    for target in (labels, np.eye(3, dtype=np.int64)[labels], np.eye(3, dtype=dtype)[labels]):
        value, gradient = evaluated("cross_entropy", z, target)
        close(value, cross_entropy(z.astype(np.float64), labels), 1e-6 if dtype == np.float32 else 1e-14)
        softmax = np.exp(z - logsumexp(z.astype(np.float64), axis=-1, keepdims=True))
        close(gradient, (softmax - np.eye(3)[labels]) / 4, 1e-6)
    binary = np.asarray([[1, 0, 1], [0, 1, 0], [1, 1, 0], [0, 1, 1]])
    value, gradient = evaluated("binary_cross_entropy", z, binary)
    close(value, binary_cross_entropy(z.astype(np.float64), binary), 1e-6 if dtype == np.float32 else 1e-14)
    sigmoid = np.exp(-np.logaddexp(0, -z.astype(np.float64)))
    close(gradient, (sigmoid - binary) / 12, 1e-6)


def huber(p: lg.Value, t: lg.Value) -> lg.Value:
    size = (p - t).abs()
    return lg.ops.where(size < 1.0, size * size * 0.5, size - 0.5).mean()


def test_a_loss_of_ones_own(rng: np.random.Generator) -> None:
    def truth(p: Array, t: Array) -> Any:
        size = np.abs(p - t)
        return np.where(size < 1, size**2 / 2, size - 0.5).mean()

    p, t = rng.standard_normal((2, 6, 3))
    value, gradient = evaluated(huber, p, t * 3)
    close(value, truth(p, t * 3), 1e-13)
    close(gradient, differences(truth, [p, t * 3], 0, 1e-5), 1e-8)


def test_a_loss_of_another_dtype_than_the_model(rng: np.random.Generator) -> None:
    w, x, t = rng.standard_normal((3, 2)), rng.standard_normal((5, 3)), rng.standard_normal((5, 2))
    model = Linear(w, dtype=np.float32)
    training = TrainingStep(
        model, lambda p, t: ((p - t).astype(np.float64) ** 2).mean(), lg.Adam(0.1), clip_norm=1.0, accumulated=True
    )
    assert training.run(x, t) == pytest.approx(mse(x @ w, t), rel=1e-6)
    training.sync()
    assert model.get_parameter("w").dtype == np.float32


# -- targets as they come ----------------------------------------------------------------------------------------------


def first_loss(loss: Any, x: Array, t: Array, w: Array) -> float:
    return TrainingStep(Linear(w), loss, lg.SGD(0.0)).run(x, t)


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int32", "int64", "uint64", "float32", "float64"])
def test_targets_of_any_dtype(dtype: str, rng: np.random.Generator) -> None:
    w, x = rng.standard_normal((3, 2)), rng.standard_normal((5, 3))
    labels = rng.integers(0, 2, 5)
    one_hot = np.eye(2)[labels]
    assert first_loss("mse", x, one_hot.astype(dtype), w) == pytest.approx(mse(x @ w, one_hot), rel=1e-6)
    assert first_loss("binary_cross_entropy", x, one_hot.astype(dtype), w) == pytest.approx(
        binary_cross_entropy(x @ w, one_hot), rel=1e-6
    )
    expected = cross_entropy(x @ w, labels)
    assert first_loss("cross_entropy", x, one_hot.astype(dtype), w) == pytest.approx(expected, rel=1e-6)
    if not dtype.startswith("float"):
        assert first_loss("cross_entropy", x, labels.astype(dtype), w) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("lead", [(), (5,), (2, 3), (2, 1, 3)])
def test_any_number_of_leading_axes(lead: tuple[int, ...], rng: np.random.Generator) -> None:
    w, x = rng.standard_normal((3, 2)), rng.standard_normal((*lead, 3))
    t, labels = rng.standard_normal((*lead, 2)), rng.integers(0, 2, lead)
    assert first_loss("mse", x, t, w) == pytest.approx(mse(x @ w, t), rel=1e-12)
    assert first_loss("cross_entropy", x, labels, w) == pytest.approx(cross_entropy(x @ w, labels), rel=1e-12)


WRONG = [
    ("mse", (5,), "float", r"mse: targets must have the shape of the prediction \[batch, 1\], got \[batch\]"),
    ("mse", (5, 1, 1), "float", r"got \[batch, 1, 1\]"),
    ("mse", (5, 2), "float", r"got \[batch, 2\]"),
    ("mse", (1, 1), "float", "batch is 1 but 5"),
    ("mse", (4, 1), "float", "batch is 4 but 5"),
    ("mse", (), "float", r"got \[\]"),
    ("binary_cross_entropy", (5,), "int", r"got \[batch\]"),
    ("cross_entropy", (5,), "float", r"ints \[batch\] or distributions \[batch, 1\], got float64\[batch\]"),
    ("cross_entropy", (5, 2), "int", r"got int64\[batch, 2\]"),
    ("cross_entropy", (1,), "int", "batch is 1 but 5"),
]


@pytest.mark.parametrize(("loss", "shape", "dtype", "message"), WRONG)
def test_nothing_broadcasts_silently(loss: str, shape: tuple[int, ...], dtype: str, message: str) -> None:
    model = Linear(np.ones((3, 1)))
    training = TrainingStep(model, loss)
    with pytest.raises(ValueError, match=message):
        training.run(np.ones((5, 3)), np.zeros(shape, dtype))
    assert training.count == 0


def test_targets_must_keep_their_shape() -> None:
    training = TrainingStep(Linear(np.ones((3, 2))), "mse")
    training.run(np.ones((5, 3)), np.zeros((5, 2)))
    with pytest.raises(ValueError, match=r"targets must have the shape \[batch, 2\], got \(5, 1\)"):
        training.run(np.ones((5, 3)), np.zeros((5, 1)))
    assert training.count == 1


@pytest.mark.parametrize(("labels", "found"), [([0, 3, 1], r"0\.\.3"), ([-1, 2, 0], r"-1\.\.2")])
@pytest.mark.parametrize("accumulated", [False, True])
def test_labels_out_of_range_are_refused_and_nothing_is_committed(
    labels: list[int], found: str, accumulated: bool
) -> None:
    model = Linear(np.ones((2, 3)))
    training = TrainingStep(model, "cross_entropy", accumulated=accumulated)
    good = (np.ones((3, 2)), np.asarray([0, 1, 2]))
    training.run_batches([good])
    before = training.state()
    batches = [good, (np.ones((3, 2)), np.asarray(labels))]
    with pytest.raises(ValueError, match=rf"labels must be in 0\.\.2, got {found}"):
        training.run_batches(batches if accumulated else batches[1:])
    assert training.count == 1
    after = training.state()
    assert all(before[name].tobytes() == after[name].tobytes() for name in before)


def test_a_loss_must_be_known_and_give_a_number() -> None:
    p, t = input("p", np.float64, ("n", 2)), input("t", np.float64, ("n", 2))
    for name in LOSSES:
        assert loss_of(name, p, t).shape == ()
    with pytest.raises(ValueError, match="loss must be one of mse, cross_entropy, binary_cross_entropy, got 'mae'"):
        loss_of("mae", p, t)
    with pytest.raises(TypeError, match="loss must be one of"):
        loss_of(None, p, t)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"scalar float Value, got float64\[n, 2\]"):
        loss_of(lambda p, t: p - t, p, t)
    with pytest.raises(ValueError, match="scalar float Value, got 3"):
        loss_of(lambda p, t: 3, p, t)  # type: ignore[arg-type, return-value]
    with pytest.raises(ValueError, match=r"scalar float Value, got int64\[\]"):
        loss_of(lambda p, t: (p - t).sum().astype("int64"), p, t)
