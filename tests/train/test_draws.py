"""Ranks and masks in training: what is inactive stays, one rank for a whole step, masks anew for each micro-batch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import lora_graph as lg
from lora_graph.train import TrainingStep
from lora_graph.train.draws import seeded
from tests.reference import close
from tests.train.models import Array, batches, copied, nested_model, same_bits

OPTIMIZERS = [
    lg.SGD(0.1),
    lg.SGD(0.1, momentum=0.9, weight_decay=0.1),
    lg.Adam(0.1, weight_decay=0.1),
    lg.AdamW(0.1, weight_decay=0.3),
]
IDS = ["SGD", "SGD momentum decay", "Adam decay", "AdamW"]


def beyond(state: dict[str, Array], rank: int) -> dict[str, Array]:
    """The part of every array that belongs to components beyond ``rank``."""
    rest = {}
    for name, array in state.items():
        if name.endswith("lora.A"):
            rest[name] = array[:, rank:]
        elif name.endswith("lora.B"):
            rest[name] = array[rank:]
    return rest


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=IDS)
@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("scaling", ["max_rank", "per_rank"])
def test_what_is_beyond_the_rank_stays_bit_for_bit(optimizer: Any, parts: int, scaling: str) -> None:
    model = nested_model(scaling=scaling)
    training = TrainingStep(model, "mse", optimizer, clip_norm=0.7, accumulated=parts > 1)
    seen = set()
    for step in range(12):
        before = training.state()
        training.run_batches(batches(parts, seed=step), seeded(1, step))
        rank = model.last_sampled_rank
        assert rank is not None
        after = training.state()
        if step:
            assert beyond(after, rank).keys() >= {"lora.A", "lora.B"}
            assert same_bits(beyond(before, rank), beyond(after, rank))
        assert (after["lora.A"][:, :rank] != before["lora.A"][:, :rank]).all()
        assert (after["lora.B"][:rank] != before["lora.B"][:rank]).all()
        seen.add(rank)
    assert seen == {1, 2, 3}


def dylora_truth(model: lg.DyLoRAAdapter, ranks: list[int], data: Any, decay: float) -> dict[str, Array]:
    """AdamW on A[:, :b] and B[:b] with a count of its own for every component, in NumPy."""
    state = copied(model)
    w, bias = state["base.weight"], state["base.bias"]
    p = {name: state[f"lora.{name}"] for name in "AB"}
    m, v = ({name: np.zeros_like(p[name]) for name in "AB"} for _ in range(2))
    counts = np.zeros(3)
    for b, (x, t) in zip(ranks, data, strict=True):
        s = model.scaling
        error = 2 * (x @ w + bias + s * (x @ p["A"][:, :b]) @ p["B"][:b] - t) / t.size
        found = {"A": s * x.T @ error @ p["B"][:b].T, "B": s * (x @ p["A"][:, :b]).T @ error}
        counts[:b] += 1
        for name, part in (("A", np.s_[:, :b]), ("B", np.s_[:b])):
            count = counts[:b] if name == "A" else counts[:b, None]
            m[name][part] = 0.9 * m[name][part] + 0.1 * found[name]
            v[name][part] = 0.99 * v[name][part] + 0.01 * found[name] ** 2
            first, second = m[name][part] / (1 - 0.9**count), v[name][part] / (1 - 0.99**count)
            p[name][part] = p[name][part] * (1 - 0.05 * decay) - 0.05 * first / (np.sqrt(second) + 1e-8)
    return p


def test_every_component_counts_its_own_steps() -> None:
    model, data = nested_model(), batches(9)
    before = nested_model()
    training = TrainingStep(model, "mse", lg.AdamW(0.05, (0.9, 0.99), weight_decay=0.2))
    ranks = []
    for step, (x, t) in enumerate(data):
        training.run(x, t, seeded(4, step))
        assert model.last_sampled_rank is not None
        ranks.append(model.last_sampled_rank)
    assert len(set(ranks)) == 3
    training.sync()
    for name, array in dylora_truth(before, ranks, data, 0.2).items():
        close(model.get_parameter(f"lora.{name}"), array, 1e-12)


def several(count: int = 4, *, seed: int = 0) -> lg.Sequential:
    layers: list[lg.Layer] = []
    for i in range(count):
        base = lg.DenseLayer(6, 6, dtype=np.float64, rng=seed + i)
        layers.append(lg.DyLoRAAdapter(base, 4, [1, 2, 4], rng=seed + i))
    return lg.Sequential(layers)


def test_fit_draws_one_rank_for_the_whole_model() -> None:
    model = several()
    seen = []

    def schedule(step: int) -> float:
        seen.append([layer.last_sampled_rank for layer in model if isinstance(layer, lg.DyLoRAAdapter)])
        return 0.01

    data = [(x, np.tanh(x)) for x, _ in batches(24)]
    lg.fit(model, data, optimizer=lg.SGD(schedule), accumulate=2)
    assert len(seen) == 12
    assert all(len(set(ranks)) == 1 for ranks in seen)
    assert {ranks[0] for ranks in seen} == {1, 2, 4}


def test_micro_batches_of_a_step_share_the_rank() -> None:
    """With a target of its own for every rank, a rank that changed between micro-batches would show in the loss."""
    model = nested_model((1, 3))
    training = TrainingStep(model, "mse", lg.SGD(1e-3), accumulated=True)
    for step in range(10):
        data = batches(5, seed=step)
        state = training.state()
        result = training.run_batches(data)
        b = model.last_sampled_rank
        base, a, bb = model.state, state["lora.A"], state["lora.B"]
        losses = [
            ((x @ base["base.weight"] + base["base.bias"] + model.scaling * (x @ a[:, :b]) @ bb[:b] - t) ** 2).mean()
            for x, t in data
        ]
        assert result.loss == pytest.approx(np.mean(losses), rel=1e-12)


class Masked(lg.Layer):
    """y = x w ⊙ m with a mask m that is drawn, and recorded."""

    def __init__(self) -> None:
        super().__init__(input_shape=(6,), output_shape=(6,), dtype=np.float64)
        self.add_parameter("w", np.ones(6))
        self.drawn: list[Array] = []

    def build(self, ctx: lg.Context, x: lg.Value) -> lg.Value:
        y = x * ctx.param("w")
        return y * ctx.draw("mask", lg.tensor(np.float64, ("batch", 6)), self.draw) if ctx.training else y

    def draw(self, rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
        self.drawn.append((rng.random(shape) < 0.5).astype(np.float64))
        return self.drawn[-1]


def test_masks_are_drawn_anew_for_every_micro_batch() -> None:
    model = Masked()
    data = [(x, x) for x, _ in batches(6)]
    history = lg.fit(model, data, accumulate=3, optimizer=lg.SGD(0.0), seed=2)
    assert len(model.drawn) == 6
    assert len({mask.tobytes() for mask in model.drawn}) == 6
    losses = [((x * mask - x) ** 2).mean() for (x, _), mask in zip(data, model.drawn, strict=True)]
    assert history.losses == pytest.approx([np.mean(losses[:3]), np.mean(losses[3:])], rel=1e-12)


@pytest.mark.parametrize("mask", ["feature", "element"])
def test_masks_of_lora_drop_follow_the_seed(mask: str) -> None:
    def train(seed: int) -> lg.LoRADropAdapter:
        model = lg.LoRADropAdapter(lg.DenseLayer(6, 4, dtype=np.float64, rng=0), 2, 0.5, mask=mask, seed=1)
        lg.fit(model, batches(6), seed=seed, accumulate=2, optimizer=lg.Adam(0.1))
        return model

    assert same_bits(train(1).state, train(1).state)
    assert not same_bits(train(1).state, train(2).state)


def test_layers_that_draw_have_masks_of_their_own() -> None:
    layers = [Masked() for _ in range(3)]
    lg.fit(lg.Sequential(layers), [(x, x) for x, _ in batches(2)])
    assert len({mask.tobytes() for layer in layers for mask in layer.drawn}) == 6


class Half(lg.Layer):
    """y = x w, of which a random half takes part in each step, by a draw that has no shared name."""

    def __init__(self) -> None:
        super().__init__(input_shape=(6,), output_shape=(6,), dtype=np.float64)
        self.add_parameter("w", np.ones(6))
        self.drawn: list[Array] = []

    def build(self, ctx: lg.Context, x: lg.Value) -> lg.Value:
        chosen = ctx.draw("chosen", lg.tensor(np.bool_, (6,)), self.draw)
        ctx.active("w", chosen)
        return x * ctx.param("w") * chosen.astype(np.float64)

    def draw(self, rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
        self.drawn.append(rng.permutation(6) < 3)
        return self.drawn[-1]


def test_what_takes_part_is_decided_once_per_step() -> None:
    model = Half()
    training = TrainingStep(model, "mse", lg.SGD(0.1), accumulated=True)
    training.run_batches([(x, 2 * x) for x, _ in batches(4)])
    training.sync()
    (chosen,) = model.drawn
    assert ((model.get_parameter("w") == 1) == ~chosen).all()
