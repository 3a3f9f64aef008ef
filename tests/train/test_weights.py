"""Targets that are left out and samples that weigh more: formulas in NumPy, and PyTorch's where it is installed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import logsumexp

import lora_graph as lg
from lora_graph.autodiff import gradients
from lora_graph.interpret import compile_graph
from lora_graph.ir import Graph, apply
from lora_graph.ir.leaves import Input
from lora_graph.ir.types import type_of
from lora_graph.train import TrainingStep
from lora_graph.train.loss import loss_of
from tests.reference import close, differences
from tests.train.models import Array, Linear, adapted, copied, same_bits

LEFT_OUT = -100


def evaluated(loss: Any, prediction: Array, target: Array, weights: Array | None = None) -> tuple[float, Array]:
    """The loss and its gradient with respect to the prediction, by the interpreter."""
    arrays = {"p": prediction, "t": target} | ({} if weights is None else {"w": weights})
    leaves = [apply(Input(name, type_of(array))) for name, array in arrays.items()]
    value = loss_of(loss, *leaves)
    graph = Graph(tuple(leaves), {"loss": value, "gradient": gradients(value, [leaves[0]])[0]})
    found = compile_graph(graph).run(arrays, {})
    return float(found["loss"]), found["gradient"]


def terms(name: str, p: Array, t: Array) -> Array:
    """The loss of each element."""
    if name == "mse":
        return (p - t) ** 2
    if name == "binary_cross_entropy":
        return t * np.logaddexp(0, -p) + (1 - t) * np.logaddexp(0, p)
    log_p = p - logsumexp(p, axis=-1, keepdims=True)
    return -(t * log_p).sum(-1) if t.shape == p.shape else -np.take_along_axis(log_p, t[..., None], -1)[..., 0]


def weighted(name: str) -> Callable[[Array, Array, Array], Any]:
    def mean(p: Array, t: Array, w: Array) -> Any:
        each = terms(name, p, np.where(t == LEFT_OUT, 0, t))
        if t.dtype.kind == "i" and t.shape != p.shape:
            w = w.reshape(w.shape + (1,) * (t.ndim - w.ndim)) * (t != LEFT_OUT)
        else:
            each = each.reshape(*w.shape, -1).mean(-1)
        return (w * each).sum() / w.sum()

    return mean


CASES = [
    ("mse", (5, 3), "real", (5,)),
    ("mse", (5, 3), "real", (5, 3)),
    ("mse", (2, 4, 3), "real", (2, 4)),
    ("binary_cross_entropy", (2, 4, 3), "real", (2,)),
    ("cross_entropy", (5, 3), "labels", (5,)),
    ("cross_entropy", (2, 4, 3), "labels", (2, 4)),
    ("cross_entropy", (3, 4, 3), "labels", (3,)),
    ("cross_entropy", (2, 4, 3), "distribution", (2, 4)),
]


def case(rng: np.random.Generator, shape: tuple[int, ...], kind: str) -> tuple[Array, Array]:
    p = rng.standard_normal(shape) * 3
    if kind == "labels":
        t = rng.integers(0, shape[-1], shape[:-1])
        t.reshape(-1)[1] = LEFT_OUT
        return p, t
    return p, rng.dirichlet(np.ones(shape[-1]), shape[:-1])


@pytest.mark.parametrize(("name", "shape", "kind", "weighed"), CASES)
def test_a_weighted_mean(
    name: str, shape: tuple[int, ...], kind: str, weighed: tuple[int, ...], rng: np.random.Generator
) -> None:
    p, t = case(rng, shape, kind)
    w = rng.uniform(0, 2, weighed)
    w.reshape(-1)[0] = 0
    value, gradient = evaluated(name, p, t, w)
    close(value, weighted(name)(p, t, w), 1e-13)
    close(gradient, differences(weighted(name), [p, t, w], 0), 1e-9)
    assert (gradient.reshape(w.size, -1)[0] == 0).all()
    close(evaluated(name, p, t, w * 7)[0], value, 1e-13)


@pytest.mark.parametrize("shape", [(6, 3), (2, 3, 4)])
def test_labels_of_minus_100_are_left_out(shape: tuple[int, ...], rng: np.random.Generator) -> None:
    p, t = case(rng, shape, "labels")
    kept = t != LEFT_OUT
    value, gradient = evaluated("cross_entropy", p, t)
    assert not kept.all()
    close(value, evaluated("cross_entropy", p[kept], t[kept])[0], 1e-14)
    close(gradient[kept], evaluated("cross_entropy", p[kept], t[kept])[1], 1e-13)
    assert (gradient[~kept] == 0).all()


def test_without_weights_nothing_changes(rng: np.random.Generator) -> None:
    p, t = case(rng, (5, 3), "real")
    for name in ("mse", "binary_cross_entropy", "cross_entropy"):
        close(evaluated(name, p, t)[0], evaluated(name, p, t, np.full(5, 3.0))[0], 1e-14)


@pytest.mark.parametrize("name", ["mse", "binary_cross_entropy", "cross_entropy"])
@pytest.mark.parametrize("garbage", [np.nan, np.inf, 1e300])
def test_a_target_that_weighs_nothing_may_be_anything(name: str, garbage: float, rng: np.random.Generator) -> None:
    p, t = case(rng, (4, 3), "real")
    w = np.asarray([1.0, 0.0, 2.0, 0.0])
    wrong = np.where(w[:, None] == 0, garbage, t)
    value, gradient = evaluated(name, p, wrong, w)
    clean, clean_gradient = evaluated(name, p, t, w)
    assert value == clean
    assert (gradient == clean_gradient).all()


def test_a_label_that_weighs_nothing_may_be_out_of_range() -> None:
    p, w = np.zeros((3, 4)), np.asarray([1.0, 0.0, 1.0])
    assert evaluated("cross_entropy", p, np.asarray([1, 77, 2]), w)[0] == pytest.approx(np.log(4))


@pytest.mark.parametrize("weights", [None, np.zeros(3)])
@pytest.mark.parametrize("name", ["mse", "cross_entropy"])
def test_where_nothing_counts_the_loss_is_zero(name: str, weights: Array | None) -> None:
    p = np.ones((3, 4))
    t = np.full(3, LEFT_OUT) if name == "cross_entropy" else p + 1
    if name == "mse" and weights is None:
        weights = np.zeros((3, 4))
    value, gradient = evaluated(name, p, t, weights)
    assert value == 0
    assert (gradient == 0).all()


def test_a_step_on_nothing_that_counts_changes_nothing() -> None:
    model = Linear(np.ones((2, 3)))
    before = copied(model)
    history = lg.fit(model, (np.ones((4, 2)), np.full(4, LEFT_OUT)), loss="cross_entropy", optimizer=lg.SGD(0.1))
    assert history.losses == [0.0]
    assert history.gradient_norms == [0.0]
    assert same_bits(copied(model), before)


@pytest.mark.parametrize("cut", [[4], [1, 9], [2, 3, 7]])
@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
def test_micro_batches_count_as_much_as_is_in_them(loss: str, cut: list[int], rng: np.random.Generator) -> None:
    """The mean is over what counts in the whole step, not a mean of means."""
    x, w = rng.standard_normal((10, 6)), rng.integers(0, 3, 10).astype(np.float64)
    t: Array = rng.integers(0, 4, 10) if loss == "cross_entropy" else rng.standard_normal((10, 4))
    w[: cut[0]] = 0
    if loss == "cross_entropy":
        t[5:7] = LEFT_OUT
    whole, parts = adapted(), adapted()
    expected = TrainingStep(whole, loss, lg.SGD(0.1)).run_batches([(x, t, w)])
    training = TrainingStep(parts, loss, lg.SGD(0.1), accumulated=True)
    result = training.run_batches(list(zip(*(np.split(array, cut) for array in (x, t, w)), strict=True)))
    assert result.loss == pytest.approx(expected.loss, rel=1e-13)
    assert result.gradient_norm == pytest.approx(expected.gradient_norm, rel=1e-12)


def test_fit_takes_weights_in_every_form(tmp_path: Path, rng: np.random.Generator) -> None:
    x, t, w = rng.standard_normal((20, 6)), rng.standard_normal((20, 4)), rng.uniform(0, 1, 20)
    np.savez(tmp_path / "data.npz", inputs=x, targets=t, weights=w)
    np.savez(tmp_path / "named.npz", x=x, targets=t, weights=w)
    whole = {"epochs": 2, "batch_size": 20, "shuffle": False}
    forms = [(x, t, w), str(tmp_path / "data.npz"), str(tmp_path / "named.npz"), [(x, t, w)]]
    losses = [lg.fit(adapted(), data, **whole).losses for data in forms]
    assert all(found == losses[0] for found in losses)
    y = adapted().forward(x)
    assert losses[0][0] == pytest.approx(weighted("mse")(y, t, w), rel=1e-12)
    assert losses[0] != lg.fit(adapted(), (x, t), **whole).losses


def test_the_weights_are_shuffled_with_the_samples(rng: np.random.Generator) -> None:
    x = rng.standard_normal((20, 6))
    t = rng.standard_normal((20, 4))
    w = (np.arange(20) % 2).astype(np.float64)
    wrong = np.where(w[:, None] == 0, 1e6, t)
    settings = {"epochs": 3, "batch_size": 6, "seed": 3}
    assert lg.fit(adapted(), (x, wrong, w), **settings).losses == lg.fit(adapted(), (x, t, w), **settings).losses


def test_a_loss_of_ones_own_takes_the_weights(rng: np.random.Generator) -> None:
    x, t, w = rng.standard_normal((8, 6)), rng.standard_normal((8, 4)), rng.uniform(0, 1, 8)

    def absolute(p: lg.Value, t: lg.Value, w: lg.Value) -> lg.Value:
        return ((p - t).abs().mean(axis=-1) * w).sum()

    loss = lg.fit(adapted(), (x, t, w), loss=absolute).losses[0]
    assert loss == pytest.approx((np.abs(adapted().forward(x) - t).mean(-1) * w).sum(), rel=1e-12)
    with pytest.raises(TypeError, match=r"loss must be a function of \(prediction, target, weights\) for this data"):
        lg.fit(adapted(), (x, t, w), loss=lambda p, t: (p - t).abs().mean())
    with pytest.raises(TypeError, match=r"loss must be a function of \(prediction, target\) for this data"):
        lg.fit(adapted(), (x, t), loss=absolute)


@pytest.mark.torch
def test_as_in_pytorch(rng: np.random.Generator) -> None:
    torch = pytest.importorskip("torch")
    p, t = case(rng, (2, 5, 4), "labels")
    logits = torch.tensor(p, requires_grad=True)
    loss = torch.nn.functional.cross_entropy(logits.reshape(-1, 4), torch.tensor(t).reshape(-1))
    loss.backward()
    value, gradient = evaluated("cross_entropy", p, t)
    close(value, loss.item(), 1e-13)
    close(gradient, logits.grad.numpy(), 1e-12)
    w = rng.uniform(0, 1, (2, 5))
    logits.grad = None
    each = torch.nn.functional.cross_entropy(logits.reshape(-1, 4), torch.tensor(t).reshape(-1), reduction="none")
    kept = torch.tensor(w).reshape(-1) * (torch.tensor(t).reshape(-1) != LEFT_OUT)
    loss = (each * kept).sum() / kept.sum()
    loss.backward()
    value, gradient = evaluated("cross_entropy", p, t, w)
    close(value, loss.item(), 1e-13)
    close(gradient, logits.grad.numpy(), 1e-12)
