"""What frozen parameters give is computed once for each sample: the losses stay, and the work goes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lora_graph as lg
from lora_graph.interpret import Program
from lora_graph.ir import Graph
from lora_graph.train import TrainingStep
from lora_graph.train.data import Arrays, Batch
from lora_graph.train.mode import training_mode
from tests.reference import close
from tests.train.models import Array
from tests.train.transformer import Encoder, samples

COUNT = 22


def perceptron() -> lg.Layer:
    return lg.Sequential([lg.DenseLayer(6, 6, activation="tanh", dtype=np.float64, rng=i) for i in range(5)])


def convolutional() -> lg.Layer:
    layers = [
        lg.ConvolutionalLayer(2, 4, 3, padding=1, activation="relu", dtype=np.float64, rng=0),
        lg.BatchNormalizationLayer(4, dtype=np.float64),
        lg.MaxPoolLayer(2, dtype=np.float64),
        lg.ConvolutionalLayer(4, 6, 3, dtype=np.float64, rng=1),
        lg.GlobalAveragePoolLayer(dtype=np.float64),
        lg.DenseLayer(6, 3, dtype=np.float64, rng=2),
    ]
    return lg.Sequential(layers)


def recurrent() -> lg.Layer:
    return lg.Sequential([lg.LSTMLayer(3, 5, dtype=np.float64, rng=0), lg.DenseLayer(5, 4, dtype=np.float64, rng=1)])


def drawn(*shape: int) -> Array:
    return np.random.default_rng(7).standard_normal(shape)


class Residual(lg.Layer):
    """A product that is wider than what it is made of, beside a way around it."""

    def __init__(self) -> None:
        super().__init__(input_shape=(6,), output_shape=(6,), dtype=np.float64)
        for number, shape in enumerate([(6, 6), (6, 60), (60, 6)]):
            self.add_parameter(f"weight{number}", np.random.default_rng(number).standard_normal(shape))

    def build(self, ctx: lg.Context, x: lg.Value) -> lg.Value:
        around = lg.ops.concat([x.exp()] * 10, -1)
        h = around + (x @ ctx.param("weight0")).tanh() @ ctx.param("weight1")
        return h @ ctx.param("weight2")


MODELS: dict[str, tuple[Callable[[], lg.Layer], str, dict[str, Any], Any, Array]] = {
    "dense": (perceptron, "4", {}, drawn(COUNT, 6), drawn(COUNT, 6)),
    "dense sequences": (perceptron, "3.*", {}, drawn(COUNT, 3, 6), drawn(COUNT, 3, 6)),
    "with a way around": (Residual, "weight2", {}, drawn(COUNT, 6), drawn(COUNT, 6)),
    "convolution": (convolutional, "3", {}, drawn(COUNT, 2, 8, 8), drawn(COUNT, 3)),
    "recurrence": (recurrent, "1", {}, drawn(COUNT, 4, 3), drawn(COUNT, 4, 4)),
    "with a mask drawn": (
        perceptron,
        "4",
        {"adapter": "lora_drop", "dropout_rate": 0.5},
        drawn(COUNT, 6),
        drawn(COUNT, 6),
    ),
    "with a rank drawn": (
        perceptron,
        "4",
        {"adapter": "dylora", "active_ranks": [1, 2]},
        drawn(COUNT, 6),
        drawn(COUNT, 6),
    ),
    "with a bias that trains": (perceptron, "4", {"unfreeze": "2.bias"}, drawn(COUNT, 6), drawn(COUNT, 6)),
}
rows = pytest.mark.parametrize("name", MODELS)


def adapted(name: str) -> tuple[lg.AdaptedModel, tuple[Any, Array]]:
    make, targets, options, x, t = MODELS[name]
    model = lg.adapt(make(), **{"targets": targets, "rank": 2, "rng": 1, **options})
    return model, (x, t)


def trained(name: str, **settings: Any) -> tuple[list[float], dict[str, Array]]:
    model, data = adapted(name)
    history = lg.fit(model, data, **{"epochs": 3, "batch_size": 8, "optimizer": lg.Adam(0.05), **settings})
    return history.losses, model.state


@rows
@pytest.mark.parametrize("settings", [{}, {"accumulate": 2}, {"shuffle": False, "batch_size": 5}, {"batch_size": 99}])
def test_the_losses_and_what_is_trained_are_the_same(name: str, settings: dict[str, Any]) -> None:
    losses, state = trained(name, **settings)
    cached, cached_state = trained(name, cache_frozen=True, **settings)
    assert len(set(losses)) == len(losses)
    close(cached, losses, 1e-9)
    for label, array in state.items():
        close(cached_state[label], array, 1e-7)


class Counted:
    """How often each graph ran, and which ops were in it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.runs: Counter[str] = Counter()
        self.graphs: dict[str, Graph] = {}
        run = Program.run

        def counted(program: Program, *args: Any, **options: Any) -> dict[str, Array]:
            self.runs[program.graph.name] += 1
            self.graphs[program.graph.name] = program.graph
            return run(program, *args, **options)

        monkeypatch.setattr(Program, "run", counted)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counted]:
    return Counted(monkeypatch)


def products(graph: Graph) -> int:
    return sum(
        count for op, count in graph.op_counts().items() if op in ("MatMul", "AddMatMul", "Gemm", "Conv", "LSTM")
    )


@rows
def test_frozen_layers_run_in_the_first_epoch_only(name: str, counted: Counted) -> None:
    trained(name, epochs=4, cache_frozen=True, engine="numpy")
    assert counted.runs == {"training step: held values": 3, "training step": 12}
    step, once = counted.graphs["training step"], counted.graphs["training step: held values"]
    trained(name, engine="numpy")
    assert products(once) > 0
    assert products(step) + products(once) == products(counted.graphs["training step"])
    frozen = {label for label in once.parameters if "weight" in label}
    assert frozen
    assert frozen.isdisjoint(step.parameters)


@pytest.mark.parametrize(("place", "wanted"), [("4", 7 + 3), ("3", 7 + 3 + 1), ("0", 7 + 3 + 4)])
def test_gradients_follow_only_paths_to_what_trains(place: str, wanted: int, counted: Counted) -> None:
    """5 + 2 products forward, 3 for dA and dB, and one more for each frozen layer behind the adapter."""
    model = lg.adapt(perceptron(), targets=place, rank=2)
    lg.fit(model, (drawn(COUNT, 6), drawn(COUNT, 6)), engine="numpy")
    assert products(counted.graphs["training step"]) == wanted


def test_the_fewest_bytes_are_held(counted: Counted) -> None:
    """Of a wide layer that is reduced at once, what is left of it."""

    class Wide(lg.Layer):
        def __init__(self) -> None:
            super().__init__(input_shape=(6,), output_shape=(6,), dtype=np.float64)
            self.add_parameter("wide", drawn(6, 300))
            self.add_parameter("w", drawn(6, 6))

        def build(self, ctx: lg.Context, x: lg.Value) -> lg.Value:
            wide = (x @ ctx.param("wide")).tanh()
            few = wide.reshape((*x.shape[:-1], 50, 6)).max(axis=-2)
            return (few + x.exp()) @ ctx.param("w")

    model = lg.adapt(Wide(), targets="w", rank=1)
    lg.fit(model, (drawn(COUNT, 6), drawn(COUNT, 6)), cache_frozen=True, batch_size=8, engine="numpy")
    outputs = counted.graphs["training step: held values"].outputs
    # the sum, and its product with the frozen weight
    assert [str(value.type) for value in outputs.values()] == ["float64[batch, 6]"] * 2


def test_cheap_functions_of_the_input_are_not_held(counted: Counted) -> None:
    class Masked(lg.Layer):
        def __init__(self) -> None:
            super().__init__(input_shape=(6,), output_shape=(6,), dtype=np.float64)
            self.add_parameter("w", drawn(6, 6))

        def build(self, ctx: lg.Context, x: lg.Value) -> lg.Value:
            return lg.ops.softmax(x.tanh() @ (ctx.param("w") * 2))

    model = Masked()
    lg.fit(model, (drawn(COUNT, 6), drawn(COUNT, 6)), cache_frozen=True, batch_size=8, engine="numpy")
    assert counted.runs == {"training step": 3}


class Contrast(lg.Layer):
    """y = (x F - mean over the batch) G w, of which only w trains."""

    def __init__(self) -> None:
        super().__init__(input_shape=(6,), output_shape=(6,), dtype=np.float64)
        for name in "FG":
            self.add_parameter(name, drawn(6, 6), trainable=False)
        self.add_parameter("w", drawn(6, 6))

    def build(self, ctx: lg.Context, x: lg.Value) -> lg.Value:
        h = x @ ctx.param("F")
        return ((h - h.mean(axis=0)).tanh() @ ctx.param("G")) @ ctx.param("w")


def test_what_depends_on_the_batch_is_not_held(counted: Counted) -> None:
    data = (drawn(COUNT, 6), drawn(COUNT, 6))
    losses = lg.fit(Contrast(), data, batch_size=8, epochs=2, cache_frozen=True, engine="numpy").losses
    assert counted.graphs["training step: held values"].op_counts() == {"MatMul": 1}
    assert [*counted.graphs["training step"].parameters][:2] == ["G", "w"]
    close(losses, lg.fit(Contrast(), data, batch_size=8, epochs=2).losses, 1e-9)


def test_a_model_with_several_inputs(counted: Counted) -> None:
    data = samples(COUNT)
    settings = {"loss": "cross_entropy", "batch_size": 8, "epochs": 3, "optimizer": lg.Adam(0.05)}
    models = [lg.adapt(Encoder(), targets=["query_1", "head"], rank=1, rng=0) for _ in range(2)]
    losses, cached = (
        lg.fit(model, data, cache_frozen=flag, engine="numpy", **settings).losses
        for model, flag in zip(models, (False, True), strict=True)
    )
    close(cached, losses, 1e-9)
    assert counted.graphs["training step"].input_names[0] == "mask"
    assert "ids" not in counted.graphs["training step"].input_names
    frozen = {name.split("_")[-1] for name in counted.graphs["training step"].parameters if name.startswith("base.")}
    assert frozen == {"1", "base.head"}


def test_resuming_goes_on_with_the_same_values(tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    model, data = adapted("dense")
    settings = {"batch_size": 8, "seed": 2, "cache_frozen": True, "optimizer": lg.Adam(0.05)}
    lg.fit(model, data, epochs=2, checkpoint=path, **settings)
    again, _ = adapted("dense")
    history = lg.fit(again, data, epochs=4, checkpoint=path, resume=True, **settings)
    straight, _ = adapted("dense")
    assert history.losses == lg.fit(straight, data, epochs=4, **settings).losses


def test_weights_and_an_npz_file(tmp_path: Path) -> None:
    (x, t), w = adapted("dense")[1], np.random.default_rng(1).uniform(0, 1, COUNT)
    np.savez(tmp_path / "data.npz", inputs=x, targets=t, weights=w)
    losses = [
        lg.fit(adapted("dense")[0], str(tmp_path / "data.npz"), epochs=2, batch_size=8, cache_frozen=flag).losses
        for flag in (False, True)
    ]
    close(losses[1], losses[0], 1e-9)


def test_a_step_takes_batches_that_nothing_was_held_for() -> None:
    model, (x, t) = adapted("dense")
    other, _ = adapted("dense")
    plain, held = TrainingStep(model), TrainingStep(other, cache_frozen=True)
    with training_mode(model), training_mode(other):
        ready = held.hold(Arrays(Batch(x, t), 8)).part(slice(0, 8))
        assert ready.held
        for batch in (Batch(x[:8], t[:8]), Batch(x[8:], t[8:])):
            expected = plain.run_batches([batch]).loss
            assert held.run_batches([batch]).loss == pytest.approx(expected, rel=1e-9)
        assert held.run_batches([ready]).loss == pytest.approx(plain.run_batches([(x[:8], t[:8])]).loss, rel=1e-9)


def test_where_it_cannot_work() -> None:
    model, (x, t) = adapted("dense")
    with pytest.raises(ValueError, match="cache_frozen needs data as arrays"):
        lg.fit(model, [(x, t)], cache_frozen=True)
    with pytest.raises(TypeError, match="cache_frozen must be a bool"):
        lg.fit(model, (x, t), cache_frozen=1)  # type: ignore[arg-type]
