"""lg.fit: what it returns, shows, refuses, and leaves as it was."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest

import lora_graph as lg
from lora_graph.errors import TrainingError
from tests.reference import close
from tests.train.models import Array, Linear, adapted, batches, copied, mse_gradient, nested_model, same_bits


@pytest.fixture
def data(rng: np.random.Generator) -> tuple[Array, Array]:
    x = rng.standard_normal((50, 6))
    return x, x @ rng.standard_normal((6, 4))


def test_it_is_a_loop_over_steps(data: tuple[Array, Array]) -> None:
    x, t = data
    w = np.zeros((6, 4))
    model = Linear(w)
    history = lg.fit(model, data, optimizer=lg.SGD(0.1), epochs=3, batch_size=20, shuffle=False)
    losses, norms = [], []
    for _ in range(3):
        for part in (slice(0, 20), slice(20, 40), slice(40, 50)):
            gradient = mse_gradient(w, x[part], t[part])
            losses.append(((x[part] @ w - t[part]) ** 2).mean())
            norms.append(np.sqrt((gradient**2).sum()))
            w = w - 0.1 * gradient
    close(model.get_parameter("w"), w, 1e-13)
    close(np.asarray(history.losses), np.asarray(losses), 1e-13)
    close(np.asarray(history.gradient_norms), np.asarray(norms), 1e-13)
    close(np.asarray(history.epoch_losses), np.reshape(losses, (3, 3)).mean(axis=1), 1e-13)
    assert history.learning_rates == [0.1] * 9
    assert (history.steps, history.samples, history.engine) == (9, 150, "onnxruntime")
    assert history.seconds > 0
    assert history.samples_per_second == pytest.approx(150 / history.seconds)
    assert history.to_dict()["steps"] == 9
    assert "9 steps" in repr(history)
    assert "loss 0.25, " in repr(lg.History(losses=[0.5, 0.0], epoch_losses=[0.25]))
    assert "loss 0.5 -> 0.1, " in repr(lg.History(losses=[0.5, 0.1]))
    assert "no steps" in repr(lg.History())


@pytest.mark.parametrize("model", [adapted, nested_model], ids=["lora", "dylora"])
def test_a_seed_gives_the_same_bits(model: Any, data: tuple[Array, Array]) -> None:
    def train(seed: int, **options: Any) -> dict[str, Array]:
        trained = model()
        lg.fit(trained, data, epochs=2, batch_size=16, seed=seed, **options)
        return dict(trained.state)

    assert same_bits(train(3), train(3))
    assert not same_bits(train(3), train(4))


def test_no_epochs_change_nothing(data: tuple[Array, Array]) -> None:
    model = adapted()
    before = model.state
    history = lg.fit(model, data, epochs=0)
    assert history.steps == 0
    assert history.epoch_losses == []
    assert same_bits(model.state, before)


def test_it_learns(data: tuple[Array, Array]) -> None:
    model = lg.DenseLayer(6, 4, dtype=np.float64, rng=0)
    history = lg.fit(model, data, optimizer=lg.Adam(0.1), epochs=60)
    assert history.epoch_losses[-1] < 1e-3 * history.epoch_losses[0]


# -- modes -------------------------------------------------------------------------------------------------------------


def mixed() -> lg.Sequential:
    """A model whose layers are in different modes."""
    base = lg.DenseLayer(6, 6, dtype=np.float64, rng=0).eval()
    drop = lg.LoRADropAdapter(base, 2, 0.5, seed=1)
    model = lg.Sequential([drop, lg.DyLoRAAdapter(lg.DenseLayer(6, 4, dtype=np.float64, rng=2), 2, [1, 2], rng=3)])
    model[1].eval()
    return model


def modes(model: lg.Layer) -> list[bool]:
    return [layer.is_training for layer in model.places()]


def test_every_layer_gets_its_own_mode_back(data: tuple[Array, Array]) -> None:
    model = mixed()
    before = modes(model)
    assert len(set(before)) == 2
    lg.fit(model, data, epochs=1)
    assert modes(model) == before
    assert model[1].last_sampled_rank is not None, "training is in training mode"  # type: ignore[attr-defined]

    def failing(p: lg.Value, t: lg.Value) -> lg.Value:
        raise ArithmeticError

    with pytest.raises(ArithmeticError):
        lg.fit(model, data, loss=failing)
    with pytest.raises(TrainingError):
        lg.fit(model, (data[0] * np.nan, data[1]))
    with pytest.raises(ValueError, match="targets"):
        lg.fit(model, (data[0], data[1][:, :1]))
    assert modes(model) == before


def test_what_was_trained_before_an_error_is_kept(data: tuple[Array, Array]) -> None:
    good, bad = adapted(), adapted()
    parts = batches(3)
    lg.fit(good, parts)
    with pytest.raises(TypeError, match="a batch must be"):
        lg.fit(bad, [*parts, None])
    assert same_bits(good.state, bad.state)


# -- bad values --------------------------------------------------------------------------------------------------------

BAD: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"epochs": -1}, ValueError, "epochs must be at least 0, got -1"),
    ({"epochs": True}, TypeError, "epochs must be an int, got True"),
    ({"batch_size": 0}, ValueError, "batch_size must be at least 1, got 0"),
    ({"batch_size": 2.0}, TypeError, "batch_size must be an int"),
    ({"seed": -1}, ValueError, "seed must be at least 0"),
    ({"accumulate": 0}, ValueError, "accumulate must be at least 1"),
    ({"engine": "torch"}, ValueError, "engine must be one of auto, onnxruntime, numpy.*, got 'torch'"),
    ({"engine": None}, TypeError, "engine must be one of"),
    ({"loss": "mae"}, ValueError, "loss must be one of mse, cross_entropy, binary_cross_entropy, got 'mae'"),
    ({"optimizer": "sgd"}, TypeError, "optimizer must be an Optimizer"),
    ({"clip_norm": 0}, ValueError, "clip_norm must be positive"),
    ({"clip_value": float("nan")}, ValueError, "clip_value must be finite"),
    ({"shuffle": 1}, TypeError, "shuffle must be a bool"),
    ({"resume": "yes"}, TypeError, "resume must be a bool"),
    ({"progress": 1}, TypeError, "progress must be a bool"),
    ({"resume": True}, ValueError, "resume=True needs checkpoint=path"),
]


@pytest.mark.parametrize(("option", "kind", "message"), BAD)
def test_bad_values_are_named(
    option: dict[str, Any], kind: type[Exception], message: str, data: tuple[Array, Array]
) -> None:
    model = adapted().eval()
    before = copied(model)
    with pytest.raises(kind, match=message):
        lg.fit(model, data, **option)
    assert same_bits(model.state, before)
    assert not model.is_training


def test_only_layers_that_support_training(data: tuple[Array, Array]) -> None:
    with pytest.raises(TypeError, match="model must be a Layer"):
        lg.fit(lambda x: x, data)  # type: ignore[arg-type]
    model = adapted()
    model.supports_training = False
    with pytest.raises(ValueError, match="does not support training"):
        lg.fit(model, data)


# -- the progress bar --------------------------------------------------------------------------------------------------


def test_the_bar_is_shown_when_asked(data: tuple[Array, Array], capsys: pytest.CaptureFixture[str]) -> None:
    lg.fit(adapted(), data, epochs=2, batch_size=25, progress=True)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "epoch" in shown.err
    assert "loss" in shown.err


@pytest.mark.parametrize("progress", [None, False])
def test_silence_where_there_is_no_terminal(
    progress: bool | None, data: tuple[Array, Array], capsys: pytest.CaptureFixture[str]
) -> None:
    lg.fit(adapted(), data, progress=progress)
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("", "")


def test_a_terminal_gets_the_bar(
    data: tuple[Array, Array], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    lg.fit(adapted(), data, progress=False)
    assert capsys.readouterr().err == ""
    lg.fit(adapted(), iter([data]))
    assert "epoch 1/1" in capsys.readouterr().err
