"""Dropout on LoRA: masks in training, the factor in evaluation, streams of random numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import lora_graph as lg
from tests.adapters.cases import draws_of
from tests.reference import close

BASE = lg.DenseLayer(6, 400, dtype="float64", rng=0)


def dropping(rate: float = 0.3, **more: Any) -> lg.LoRADropAdapter:
    adapter = lg.LoRADropAdapter(BASE, 3, rate, seed=more.pop("seed", 5), **more)
    adapter.set_parameter("lora.B", np.random.default_rng(1).normal(size=(3, 400)))
    return adapter


def change(adapter: lg.Adapter, x: np.ndarray) -> np.ndarray:
    p = adapter.state
    return np.asarray(x @ p["lora.A"] @ p["lora.B"])


def test_a_feature_mask_is_shared_by_the_batch(rng: np.random.Generator) -> None:
    adapter, x = dropping(), rng.normal(size=(2, 5, 6))
    assert adapter.is_training
    ratio = (adapter.forward(x) - BASE.forward(x)) / change(adapter, x)
    close(ratio, np.broadcast_to(ratio[0, 0], ratio.shape), 1e-9)
    mask = draws_of(adapter)["mask"]
    assert set(mask) == {0, 1 / 0.7}
    close(ratio[0, 0], mask, 1e-9)
    assert abs((mask > 0).mean() - 0.7) < 0.07


def test_an_element_mask_has_the_shape_of_the_output(rng: np.random.Generator) -> None:
    adapter, x = dropping(mask="element"), rng.normal(size=(2, 5, 6))
    y = adapter.forward(x)
    mask = draws_of(adapter)["mask"]
    assert mask.shape == (2, 5, 400)
    assert set(mask.ravel()) == {0, 1 / 0.7}
    assert abs((mask > 0).mean() - 0.7) < 0.03
    assert not (mask == mask[0, 0]).all()
    close(y, BASE.forward(x) + change(adapter, x) * mask, 1e-12)


@pytest.mark.parametrize("kind", ["feature", "element"])
def test_backward_uses_the_mask_of_its_forward(kind: str, rng: np.random.Generator) -> None:
    adapter, x = dropping(mask=kind), rng.normal(size=(3, 6))
    g = rng.normal(size=(3, 400))
    p = adapter.state
    for _ in range(2):
        adapter.forward(x)
        mask = draws_of(adapter)["mask"]
        of_input = adapter.backward(g)
        through = g * mask
        close(of_input, g @ p["base.weight"].T + through @ p["lora.B"].T @ p["lora.A"].T, 1e-12)
        of_b = adapter.get_parameter_gradients()[18:].reshape(3, 400)
        close(of_b, (x @ p["lora.A"]).T @ through, 1e-12)
        if kind == "feature":
            np.testing.assert_array_equal(of_b.any(axis=0), mask > 0)
        np.testing.assert_array_equal(adapter.backward(g), of_input)


@pytest.mark.parametrize(("scaling", "factor"), [("documented", 0.7), ("none", 1.0)])
@pytest.mark.parametrize("site", ["output", "weight"])
def test_evaluation_and_merging_use_one_factor(
    scaling: str, factor: float, site: str, rng: np.random.Generator
) -> None:
    adapter, x = dropping(inference_scaling=scaling, site=site), rng.normal(size=(3, 6))
    expected = BASE.forward(x) + factor * change(adapter, x)
    close(adapter.merge_to_original_layer().forward(x), expected, 1e-12)
    assert adapter.is_training
    close(adapter.set_training(False).forward(x), expected, 1e-12)
    assert not adapter.is_training
    assert draws_of(adapter) == {}


def test_nothing_dropped_is_lora(rng: np.random.Generator) -> None:
    adapter, x = dropping(0.0), rng.normal(size=(3, 6))
    expected = BASE.forward(x) + change(adapter, x)
    close(adapter.forward(x), expected, 1e-12)
    close(adapter.eval().forward(x), expected, 1e-12)


def test_reset_state_drops_the_mask() -> None:
    adapter = dropping()
    adapter.forward(np.ones(6))
    adapter.reset_state()
    with pytest.raises(RuntimeError, match="reset_state"):
        adapter.backward(np.ones(400))


# -- random numbers ---------------------------------------------------------------------------------------------------


def masks(adapter: lg.LoRADropAdapter, count: int = 3) -> bytes:
    found = []
    for _ in range(count):
        adapter.forward(np.ones(6))
        found.append(draws_of(adapter)["mask"])
    return np.concatenate(found).tobytes()


def matrix(adapter: lg.Adapter) -> bytes:
    return adapter.get_parameter("lora.A").tobytes()


def test_the_seed_draws_masks_and_matrices() -> None:
    one, two, other = dropping(seed=1), dropping(seed=1), dropping(seed=2)
    assert matrix(one) == matrix(two) != matrix(other)
    first, second, third = masks(one), masks(two), masks(other)
    assert first == second != third
    assert first != masks(one)


def test_masks_do_not_depend_on_where_the_matrices_come_from() -> None:
    one, two = dropping(seed=1), dropping(seed=1, rng=9)
    assert matrix(one) != matrix(two)
    assert masks(one) == masks(two)
    assert matrix(dropping(seed=3, rng=9)) == matrix(two)


def test_without_a_seed_rng_draws_both() -> None:
    def make() -> lg.LoRADropAdapter:
        return lg.LoRADropAdapter(BASE, 3, 0.5, rng=4)

    one, two = make(), make()
    assert matrix(one) == matrix(two)
    assert masks(one) == masks(two)
    free = lg.LoRADropAdapter(BASE, 3, 0.5)
    assert masks(free) != masks(lg.LoRADropAdapter(BASE, 3, 0.5))


def make(rate: Any = 0.5, **more: Any) -> Callable[[], Any]:
    return lambda: lg.LoRADropAdapter(BASE, 3, rate, **more)


BAD: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (make(1.0), ValueError, r"dropout_rate must be in \[0, 1\), got 1.0"),
    (make(-0.1), ValueError, r"dropout_rate must be in \[0, 1\), got -0.1"),
    (make(np.nan), ValueError, "dropout_rate must be finite"),
    (make(None), TypeError, "dropout_rate must be a number"),
    (make(True), TypeError, "dropout_rate must be a number"),
    (make(mask="row"), ValueError, "mask must be one of feature, element, got 'row'"),
    (make(mask="element", site="weight"), ValueError, "mask='element' needs site='output'"),
    (make(inference_scaling="half"), ValueError, "inference_scaling must be one of documented, none"),
    (make(seed=1.0), TypeError, "seed must be an int, got 1.0"),
    (make(seed=True), TypeError, "seed must be an int, got True"),
    (make(seed=-1), ValueError, "seed must be at least 0"),
]


@pytest.mark.parametrize(("build", "error", "words"), BAD, ids=[words for _, _, words in BAD])
def test_arguments_that_cannot_be(build: Callable[[], Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        build()


def test_diagnostics() -> None:
    found = dropping().get_diagnostics()
    assert (found["dropout_rate"], found["mask"], found["inference_scaling"]) == ("0.3", "feature", "documented")
    assert found["mode"] == "training"
    assert dropping().dropout_rate == 0.3
