"""DyLoRA: ranks drawn in training, the rank of deployment, and nested gradients."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import lora_graph as lg
from lora_graph.interpret import evaluate
from tests.reference import close

BASE = lg.DenseLayer(8, 7, dtype="float64", rng=0)


def dylora(ranks: tuple[int, ...] = (1, 2, 5), alpha: float = 10, **more: Any) -> lg.DyLoRAAdapter:
    adapter = lg.DyLoRAAdapter(BASE, 5, ranks, alpha, rng=0, **more)
    adapter.set_parameter("lora.B", np.random.default_rng(1).normal(size=(5, 7)))
    return adapter


def test_it_starts_in_training_mode_at_the_largest_rank() -> None:
    adapter = lg.DyLoRAAdapter(BASE, 5, [1, 3])
    assert adapter.is_training
    assert adapter.active_ranks == (1, 3)
    assert (adapter.max_rank, adapter.rank, adapter.alpha, adapter.scaling) == (5, 5, 5, 1)
    assert adapter.current_deployment_rank == 3
    assert adapter.last_sampled_rank is None
    assert adapter.parameter_count == 5 * (8 + 7)


def test_ranks_are_drawn_uniformly_and_repeatably() -> None:
    def ranks(count: int) -> list[int | None]:
        adapter = lg.DyLoRAAdapter(BASE, 5, [1, 2, 5], rng=3)
        found = []
        for _ in range(count):
            adapter.forward(np.zeros(8))
            found.append(adapter.last_sampled_rank)
        return found

    found = ranks(600)
    counts = Counter(found)
    assert set(counts) == {1, 2, 5}
    assert sum((n - 200) ** 2 / 200 for n in counts.values()) < 13.8  # chi-square, 2 degrees of freedom, 0.1 %
    assert ranks(20) == found[:20]


def test_gradients_beyond_the_drawn_rank_are_zero() -> None:
    adapter = dylora()
    seen = set()
    for _ in range(30):
        before = adapter.get_parameters()
        adapter.forward(np.random.default_rng(2).normal(size=(4, 8)))
        rank = adapter.last_sampled_rank
        assert rank is not None
        seen.add(rank)
        adapter.backward(np.ones((4, 7)))
        gradients = adapter.get_parameter_gradients()
        a, b = gradients[:40].reshape(8, 5), gradients[40:].reshape(5, 7)
        assert not a[:, rank:].any()
        assert not b[rank:].any()
        assert a[:, :rank].all()
        assert b[:rank].all()
        adapter.update_parameters(0.01)
        moved = adapter.get_parameters() != before
        np.testing.assert_array_equal(moved, gradients != 0)
    assert seen == {1, 2, 5}


@pytest.mark.parametrize("scaling", ["max_rank", "per_rank"])
@pytest.mark.parametrize("site", ["output", "weight"])
@pytest.mark.parametrize("rank", [1, 2, 5])
def test_the_deployment_rank_is_a_slice(rank: int, site: str, scaling: str, rng: np.random.Generator) -> None:
    adapter = dylora(site=site, rank_scaling=scaling).eval()
    adapter.set_deployment_rank(rank)
    s = 10 / (5 if scaling == "max_rank" else rank)
    assert adapter.scaling == s
    p, x = adapter.state, rng.normal(size=(3, 8))
    weight = p["base.weight"] + s * p["lora.A"][:, :rank] @ p["lora.B"][:rank]
    expected = x @ weight + p["base.bias"]
    close(adapter.forward(x), expected, 1e-12)
    close(evaluate(adapter.to_graph(), {"x": x}, p)["y"], expected, 1e-12)
    merged = adapter.merge_to_original_layer()
    close(merged.get_parameter("weight"), weight, 1e-12)
    close(merged.forward(x), expected, 1e-12)
    assert adapter.last_sampled_rank is None


def test_training_differs_from_evaluation_by_the_rank_alone(rng: np.random.Generator) -> None:
    adapter, x = dylora(), rng.normal(size=(3, 8))
    y = adapter.forward(x)
    assert adapter.last_sampled_rank is not None
    adapter.current_deployment_rank = adapter.last_sampled_rank
    close(adapter.eval().forward(x), y, 1e-12)


def test_reset_state_forgets_the_rank() -> None:
    adapter = dylora()
    adapter.forward(np.ones(8))
    adapter.reset_state()
    assert adapter.last_sampled_rank is None
    with pytest.raises(RuntimeError, match="reset_state"):
        adapter.backward(np.ones(7))


def test_a_forward_that_fails_draws_nothing() -> None:
    adapter, twin = dylora(), dylora()
    with pytest.raises(ValueError, match=r"x must end in \[8\]"):
        adapter.forward(np.ones(9))
    assert adapter.last_sampled_rank is None
    ranks = []
    for one in (adapter, twin):
        for _ in range(10):
            one.forward(np.ones(8))
            ranks.append(one.last_sampled_rank)
    assert ranks[:10] == ranks[10:]


@pytest.mark.parametrize(
    ("rank", "error", "words"),
    [
        (3, ValueError, r"rank must be one of the active ranks \[1, 2, 5\], got 3"),
        (0, ValueError, "active ranks"),
        (2.0, TypeError, "rank must be an int, got 2.0"),
        (True, TypeError, "rank must be an int, got True"),
        (None, TypeError, "rank must be an int, got None"),
    ],
)
def test_deployment_ranks_that_cannot_be(rank: Any, error: type[Exception], words: str) -> None:
    adapter = dylora()
    with pytest.raises(error, match=words):
        adapter.set_deployment_rank(rank)
    with pytest.raises(error, match=words):
        adapter.current_deployment_rank = rank
    assert adapter.current_deployment_rank == 5


def make(max_rank: Any, ranks: Any, **more: Any) -> Callable[[], Any]:
    return lambda: lg.DyLoRAAdapter(BASE, max_rank, ranks, **more)


BAD: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (make(5, None), TypeError, "active_ranks must be a sequence of ints, got None"),
    (make(5, "123"), TypeError, "active_ranks must be a sequence of ints"),
    (make(5, {1, 2}), TypeError, "active_ranks must be a sequence of ints"),
    (make(5, []), ValueError, "active_ranks must be non-empty"),
    (make(5, [2, 1]), ValueError, r"strictly ascending in 1\.\.5, got \(2, 1\)"),
    (make(5, [1, 1]), ValueError, "strictly ascending"),
    (make(5, [0, 1]), ValueError, r"each of active_ranks must be in 1\.\.5, got 0"),
    (make(5, [1, 6]), ValueError, r"each of active_ranks must be in 1\.\.5, got 6"),
    (make(5, [1, 2.0]), TypeError, "each of active_ranks must be an int, got 2.0"),
    (make(5, [True, 2]), TypeError, "each of active_ranks must be an int, got True"),
    (make(0, [1]), ValueError, "max_rank must be at least 1, got 0"),
    (make(7, [1]), ValueError, r"max_rank must be at least 1 and less than 7 .*\[8, 7\], got 7"),
    (make(5.0, [1]), TypeError, "max_rank must be an int"),
    (make(5, [1], rank_scaling="per"), ValueError, "rank_scaling must be one of max_rank, per_rank, got 'per'"),
]


@pytest.mark.parametrize(("build", "error", "words"), BAD, ids=[words for _, _, words in BAD])
def test_arguments_that_cannot_be(build: Callable[[], Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        build()


def test_active_ranks_from_numpy() -> None:
    adapter = lg.DyLoRAAdapter(BASE, 5, np.array([1, 4]))  # type: ignore[arg-type]
    assert adapter.active_ranks == (1, 4)
    adapter.set_deployment_rank(np.int64(1))  # type: ignore[arg-type]
    assert type(adapter.current_deployment_rank) is int


def test_one_rank_for_all_weights_of_a_layer() -> None:
    base = lg.Sequential([lg.DenseLayer(8, 8, "tanh", rng=0), lg.DenseLayer(8, 7, rng=1)])
    adapter = lg.DyLoRAAdapter(base, 5, [1, 2, 5], site="weight", rng=0)
    for name in ("lora_0_weight.B", "lora_1_weight.B"):
        adapter.set_parameter(name, np.ones(adapter.get_parameter_shape(name)))
    for _ in range(10):
        adapter.forward(np.random.default_rng(0).normal(size=(2, 8)))
        adapter.backward(np.ones((2, 7)))
        gradients = adapter.get_parameter_gradients()
        first, second = gradients[:40].reshape(8, 5), gradients[80:120].reshape(8, 5)
        for of_a in (first, second):
            assert of_a.any(axis=0).sum() == adapter.last_sampled_rank


def test_diagnostics() -> None:
    found = dylora().get_diagnostics()
    assert (found["active_ranks"], found["deployment_rank"], found["rank_scaling"]) == ("1, 2, 5", "5", "max_rank")
    assert (found["family"], found["site"], found["base_layer"]) == ("dylora", "output", "DenseLayer")


@pytest.mark.parametrize("groups", [1, 2])
def test_the_file_of_a_convolution_holds_the_slice_in_the_shapes_of_a_pair(
    groups: int, rng: np.random.Generator
) -> None:
    adapter = lg.DyLoRAAdapter(lg.ConvolutionalLayer(4, 6, (3, 2), groups=groups, rng=0), 3, [1, 2, 3], 6.0, rng=1)
    adapter.set_parameter("lora.B", rng.normal(size=(6, 3, 1, 1)))
    adapter.set_deployment_rank(2)
    inner = 4 // groups
    slices = adapter.get_parameter("lora.A").reshape(groups, 3, inner, 3, 2)[:, :2].reshape(groups * 2, inner, 3, 2)
    read = lg.load_onnx(lg.export_onnx(adapter))
    np.testing.assert_array_equal(read.get_parameter("lora.A"), slices)
    np.testing.assert_array_equal(read.get_parameter("lora.B"), 2 * adapter.get_parameter("lora.B")[:, :2])
