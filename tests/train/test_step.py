"""The step: accumulation, what is frozen, state that layers update, when a step commits, and whose arrays are whose."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import lora_graph as lg
from lora_graph.errors import TrainingError
from lora_graph.ir import Value
from lora_graph.ir.leaves import Parameter
from lora_graph.ops.accumulate import AddMatMul
from lora_graph.ops.linalg import MatMul
from lora_graph.train import TrainingStep
from tests.reference import close
from tests.train.models import Array, Centered, Linear, adapted, batches, copied, mse_gradient, same_bits


@pytest.mark.parametrize("sizes", [(12,), (4, 4, 4), (5, 5, 2), (1, 10, 1), (4, 0, 8)])
@pytest.mark.parametrize("optimizer", [lg.SGD(0.1, momentum=0.9), lg.AdamW(0.01)], ids=["SGD", "AdamW"])
def test_micro_batches_make_the_step_of_the_whole_batch(sizes: tuple[int, ...], optimizer: Any) -> None:
    whole, parts = adapted(), adapted()
    once = TrainingStep(whole, "mse", optimizer, clip_norm=0.5)
    several = TrainingStep(parts, "mse", optimizer, clip_norm=0.5, accumulated=True)
    for x, t in batches(4, 12):
        cut = np.cumsum(sizes)[:-1]
        expected = once.run_batches([(x, t)])
        result = several.run_batches(list(zip(np.split(x, cut), np.split(t, cut), strict=True)))
        assert result.loss == pytest.approx(expected.loss, rel=1e-13)
        assert result.gradient_norm == pytest.approx(expected.gradient_norm, rel=1e-12)
        assert result.samples == 12
    once.sync()
    several.sync()
    for name, array in whole.state.items():
        close(parts.state[name], array, 1e-12)


def test_samples_are_counted_over_all_leading_axes() -> None:
    model = Linear(np.ones((3, 2)))
    training = TrainingStep(model, "mse", accumulated=True)
    x, t = np.ones((4, 5, 3)), np.zeros((4, 5, 2))
    assert training.run_batches([(x, t), (x[:2], t[:2])]).samples == 30
    assert training.run_batches([(x[0, 0], t[0, 0])]).samples == 1


def test_a_named_axis_of_a_sample_may_have_any_length(rng: np.random.Generator) -> None:
    class Sequence(lg.Layer):
        def __init__(self) -> None:
            super().__init__(input_shape=("time", 3), output_shape=("time", 2), dtype=np.float64)
            self.add_parameter("w", np.ones((3, 2)))

        def build(self, ctx: lg.Context, x: lg.Value) -> lg.Value:
            return x @ ctx.param("w")

    model, w = Sequence(), np.ones((3, 2))
    training = TrainingStep(model, "mse", lg.SGD(0.1))
    for time in (4, 1, 7):
        x, t = rng.standard_normal((5, time, 3)), rng.standard_normal((5, time, 2))
        training.run(x, t)
        w = w - 0.1 * mse_gradient(w, x.reshape(-1, 3), t.reshape(-1, 2))
    training.sync()
    close(model.get_parameter("w"), w, 1e-13)
    with pytest.raises(ValueError, match="time is 5 but 4"):
        training.run(np.ones((2, 4, 3)), np.ones((2, 5, 2)))


def test_a_step_takes_batches_of_samples() -> None:
    training = TrainingStep(Linear(np.ones((3, 2))), "mse")
    with pytest.raises(ValueError, match="at least one sample"):
        training.run(np.ones((0, 3)), np.ones((0, 2)))
    with pytest.raises(ValueError, match="got 0"):
        training.run_batches([])
    with pytest.raises(ValueError, match="accumulated=True: got 2"):
        training.run_batches([(np.ones((1, 3)), np.ones((1, 2)))] * 2)
    with pytest.raises(ValueError, match=r"inputs must end in \[3\], got shape \(2, 4\)"):
        training.run(np.ones((2, 4)), np.ones((2, 2)))
    with pytest.raises(TypeError, match="inputs must be an array of numbers"):
        training.run(np.full((2, 3), "a"), np.ones((2, 2)))
    assert training.count == 0


# -- what is frozen ----------------------------------------------------------------------------------------------------


def products(model: lg.Layer) -> list[Value]:
    training = TrainingStep(model, "mse", lg.Adam(), engine="numpy")
    training.run(*batches(1)[0])
    (prepared,) = training._prepared.values()
    return [value for value in prepared.step.graph.values if isinstance(value.op, MatMul | AddMatMul)]


def test_nothing_is_computed_for_what_is_frozen() -> None:
    """x W, x A, (x A) B, and for the gradients g Bᵀ, xᵀ (g Bᵀ), (x A)ᵀ g: none for W, none for x."""
    frozen = adapted(site="output")
    assert len(products(frozen)) == 6
    thawed = lg.StandardLoRAAdapter(lg.DenseLayer(6, 4, dtype=np.float64, rng=0), 2, freeze_base_layer=False, rng=1)
    assert len(products(thawed)) == 7
    dense = lg.Sequential([lg.DenseLayer(6, 5, dtype=np.float64, rng=0), lg.DenseLayer(5, 4, dtype=np.float64, rng=0)])
    assert len(products(dense)) == 5
    dense[0].freeze()
    assert len(products(dense)) == 3


def test_the_step_keeps_no_state_for_what_is_frozen() -> None:
    model = adapted()
    training = TrainingStep(model, "mse", lg.Adam())
    training.run(*batches(1)[0])
    names = {"lora.A", "lora.B"}
    moments = {f"optimizer.{slot}/{name}" for slot in ("mean", "square") for name in names}
    assert set(training.state()) == {*names, *moments, "optimizer.count"}
    (prepared,) = training._prepared.values()
    leaves = [leaf.op for leaf in prepared.step.graph.parameters.values()]
    assert all(isinstance(op, Parameter) for op in leaves)
    assert not {"base.weight", "base.bias"} & set(prepared.step.graph.outputs)


@pytest.mark.parametrize("site", ["output", "weight"])
def test_the_base_stays_bit_for_bit(site: str) -> None:
    model = adapted(site=site)
    before = copied(model)
    held = model.state
    history = lg.fit(model, batches(5), epochs=4, optimizer=lg.AdamW(0.05, weight_decay=0.5), clip_norm=1.0)
    assert history.epoch_losses[-1] < history.epoch_losses[0]
    for name in ("base.weight", "base.bias"):
        assert model.state[name].tobytes() == before[name].tobytes()
        assert model.state[name] is held[name]
    for name in ("lora.A", "lora.B"):
        assert (model.state[name] != before[name]).all()


def test_everything_frozen_is_nothing_to_train() -> None:
    model = adapted().freeze()
    with pytest.raises(ValueError, match="nothing to train: every parameter of StandardLoRAAdapter is frozen"):
        lg.fit(model, batches(1))


def test_parameters_that_the_output_does_not_reach() -> None:
    class Idle(Linear):
        def __init__(self) -> None:
            super().__init__(np.ones((3, 2)))
            self.add_parameter("idle", np.ones(3))

    model = Idle()
    training = TrainingStep(model, "mse", lg.AdamW(0.1))
    training.run(np.ones((2, 3)), np.zeros((2, 2)))
    training.sync()
    assert (model.get_parameter("idle") == 1).all()
    assert (model.get_parameter("w") != 1).all()

    class Deaf(Idle):
        def build(self, ctx: lg.Context, x: lg.Value) -> lg.Value:
            return x[..., :2]

    with pytest.raises(ValueError, match="depends on no parameter"):
        TrainingStep(Deaf(), "mse").run(np.ones((2, 3)), np.zeros((2, 2)))


def test_names_that_the_step_uses_itself_are_refused() -> None:
    class Learned(lg.Layer):
        def __init__(self) -> None:
            super().__init__(input_shape=(2,), output_shape=(2,), dtype=np.float64)
            self.add_parameter("learning_rate", np.ones(2))

        def build(self, ctx: lg.Context, x: lg.Value) -> lg.Value:
            return x * ctx.param("learning_rate")

    with pytest.raises(ValueError, match="called 'learning_rate', a name that the training step uses"):
        TrainingStep(Learned(), "mse").run(np.ones((2, 2)), np.ones((2, 2)))


# -- state that layers update ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("accumulated", [False, True])
def test_running_statistics_are_committed_with_the_step(accumulated: bool, rng: np.random.Generator) -> None:
    w, mean = rng.standard_normal((3, 2)), np.zeros(3)
    model = Centered(w)
    training = TrainingStep(model, "mse", lg.SGD(0.1), accumulated=accumulated)
    for _ in range(4):
        parts = [(rng.standard_normal((4, 3)), rng.standard_normal((4, 2))) for _ in range(2 if accumulated else 1)]
        gradient = np.zeros_like(w)
        for x, t in parts:
            gradient += mse_gradient(w, x - mean, t) / len(parts)
            mean = 0.9 * mean + 0.1 * x.mean(axis=0)
        w = w - 0.1 * gradient
        training.run_batches(parts)
    assert (model.get_parameter("mean") == 0).all(), "the model gets it with sync"
    with pytest.raises(TrainingError):
        training.run(np.full((4, 3), np.inf), np.zeros((4, 2)))
    training.sync()
    close(model.get_parameter("mean"), mean, 1e-13)
    close(model.get_parameter("w"), w, 1e-13)


# -- when a step commits -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("optimizer", [lg.SGD(0.1, momentum=0.5), lg.Adam()], ids=["SGD", "Adam"])
def test_a_loss_that_is_not_finite_stops_at_the_step_before(accumulate: int, optimizer: Any) -> None:
    data = batches(6)
    good, bad = adapted(), adapted()
    lg.fit(good, data[: 2 * accumulate], optimizer=optimizer, accumulate=accumulate)
    data[3 * accumulate - 1][0][0, 0] = np.nan
    origin = r"the first value that is not finite is input 'x', nan at \[0, 0\]"
    with pytest.raises(
        TrainingError, match=f"step 3: the loss is nan; {origin}; the parameters are those after step 2"
    ):
        lg.fit(bad, data, optimizer=optimizer, accumulate=accumulate)
    assert same_bits(good.state, bad.state)


def test_a_gradient_that_is_not_finite_commits_nothing() -> None:
    model = Linear(np.zeros((1, 1)))
    before = copied(model)
    training = TrainingStep(model, lambda p, t: (p - t).abs().sqrt().sum(), lg.SGD(0.1))
    origin = r"the first value that is not finite is Div \(float64\[batch, 1\]\), inf at \[0, 0\]"
    with pytest.raises(TrainingError, match=f"step 1: the gradient norm is (inf|nan); {origin}; the parameters are"):
        training.run([[1.0]], [[0.0]])
    training.sync()
    assert same_bits(model.state, before)
    training.run([[1.0]], [[1.0]])
    assert training.count == 1


# -- whose arrays are whose --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("accumulated", [False, True])
def test_arrays_that_were_handed_out_are_never_written_to(accumulated: bool) -> None:
    model = adapted()
    training = TrainingStep(model, "mse", lg.Adam(0.1), accumulated=accumulated)
    held: list[tuple[dict[str, Array], dict[str, Array]]] = []

    def hold(arrays: dict[str, Array]) -> None:
        held.append((arrays, {name: array.copy() for name, array in arrays.items()}))

    for x, t in batches(6):
        hold(model.state)
        hold(training.state())
        hold({"A": model.get_parameter("lora.A")})
        training.run(x, t)
        training.sync()
    for arrays, as_they_were in held:
        assert same_bits(arrays, as_they_were)
    assert not same_bits(held[0][0], model.state)


def test_what_is_done_to_arrays_handed_out_does_not_reach_the_training() -> None:
    first, second = adapted(), adapted()
    disturbed, calm = (TrainingStep(model, "mse", lg.Adam(0.1)) for model in (first, second))
    for x, t in batches(4):
        for training in (disturbed, calm):
            training.run(x, t)
        disturbed.sync()
        for name in ("lora.A", "lora.B"):
            first.state[name][:] = 7
        for array in disturbed.state().values():
            array[...] = 7
    disturbed.sync()
    calm.sync()
    assert same_bits(first.state, second.state)


def test_sync_hands_over_what_was_trained_since() -> None:
    model = adapted()
    before = copied(model)
    training = TrainingStep(model, "mse", lg.SGD(0.1))
    training.sync()
    assert same_bits(model.state, before)
    training.run(*batches(1)[0])
    assert same_bits(model.state, before), "the model gets parameters with sync alone"
    training.sync()
    after = copied(model)
    assert not same_bits(after, before)
    training.sync()
    assert same_bits(model.state, after)


def test_two_steps_on_one_model_know_nothing_of_each_other() -> None:
    model, twin = adapted(), adapted()
    first, second = TrainingStep(model, "mse", lg.SGD(0.1)), TrainingStep(model, "mse", lg.SGD(0.3))
    alone = TrainingStep(twin, "mse", lg.SGD(0.1))
    for x, t in batches(3):
        first.run(x, t)
        second.run(x, t)
        second.sync()
        alone.run(x, t)
    first.sync()
    alone.sync()
    assert same_bits(model.state, twin.state)


def test_a_second_fit_starts_where_the_model_stands(rng: np.random.Generator) -> None:
    w, (x, t) = rng.standard_normal((3, 2)), (rng.standard_normal((5, 3)), rng.standard_normal((5, 2)))
    model = Linear(w)
    lg.fit(model, [(x, t)], optimizer=lg.SGD(0.1))
    lg.fit(model, [(x, t)], optimizer=lg.SGD(0.1))
    for _ in range(2):
        w = w - 0.1 * mse_gradient(w, x, t)
    close(model.get_parameter("w"), w, 1e-13)
    loaded = rng.standard_normal((3, 2))
    model.load_weights({"w": loaded})
    lg.fit(model, [(x, t)], optimizer=lg.SGD(0.1))
    close(model.get_parameter("w"), loaded - 0.1 * mse_gradient(loaded, x, t), 1e-13)


def test_a_fit_uses_the_base_that_was_loaded() -> None:
    data = batches(2)
    fresh, reused = adapted(seed=3), adapted(seed=0)
    lg.fit(reused, data)
    reused.load_weights(fresh.state)
    for model in (fresh, reused):
        lg.fit(model, data)
    assert same_bits(fresh.state, reused.state)


def test_batches_of_several_kinds_share_one_state(rng: np.random.Generator) -> None:
    w = rng.standard_normal((3, 2))
    model = Linear(w)
    training = TrainingStep(model, "mse", lg.SGD(0.1, momentum=0.5))
    velocity = np.zeros_like(w)
    for lead in ((4,), (2, 3), (), (5,), (2, 3)):
        x, t = rng.standard_normal((*lead, 3)), rng.standard_normal((*lead, 2))
        training.run(x, t)
        velocity = 0.5 * velocity + mse_gradient(w, x.reshape(-1, 3), t.reshape(-1, 2))
        w = w - 0.1 * velocity
    training.sync()
    close(model.get_parameter("w"), w, 1e-13)
