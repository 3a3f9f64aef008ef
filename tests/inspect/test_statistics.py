"""Statistics of weights, and what adapters change them by, against what merging makes of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import numpy_helper

import lora_graph as lg
from lora_graph.inspect.inspected import Inspected
from lora_graph.inspect.statistics import Change, details, values_of
from tests.onnx.forms.models import FAMILIES, adapted, convolutional, dense, embedding, randomized


def changes(model: Any) -> dict[str, Change]:
    return {change.weight: change for change in values_of(Inspected.of(model)).changes}


def test_the_effective_rank_of_a_trained_adapter_is_its_rank(rng: np.random.Generator) -> None:
    base = lg.Sequential([lg.DenseLayer(24, 32, "tanh", rng=rng), lg.FullyConnectedLayer(32, 12, rng=rng)])
    x = rng.normal(size=(64, 24)).astype(np.float32)
    y = np.sin(x @ rng.normal(size=(24, 12))).astype(np.float32)
    for rank in (1, 3, 5):
        model = lg.adapt(base, rank=rank, rng=rng)
        lg.fit(model, (x, y), epochs=5, batch_size=16, optimizer=lg.Adam(1e-2), seed=1)
        found = changes(model.eval())
        assert [change.effective_rank for change in found.values()] == [rank, rank]
        assert all(1 <= change.entropy_rank <= rank + 1e-9 for change in found.values())


def test_an_adapter_that_has_not_been_trained_changes_nothing(rng: np.random.Generator) -> None:
    found = changes(lg.adapt(dense(rng), rank=2, rng=rng))
    assert [(c.effective_rank, c.entropy_rank, c.norm, c.relative, c.largest) for c in found.values()] == [
        (0, 0.0, 0.0, 0.0, 0.0)
    ] * 2


BASES = {
    "dense": dense,
    "convolutions": convolutional,
    "grouped convolutions": lambda rng: convolutional(rng, 2),
    "embedding": embedding,
    "recurrent": lambda rng: lg.Sequential([lg.LSTMLayer(5, 6, rng=rng)]),
}


@pytest.mark.parametrize("family", [*FAMILIES, "dora"])
@pytest.mark.parametrize("base", BASES)
def test_a_change_is_the_merged_weight_less_the_weight(base: str, family: str, rng: np.random.Generator) -> None:
    layer = BASES[base](rng)
    options = FAMILIES.get(family, {})
    model = randomized(lg.adapt(layer, family, targets="*", rank=2, alpha=3, rng=rng, **options), rng)
    merged, before = model.merge_to_base().state, model.base.state
    found = changes(model)
    assert found.keys() == {f"base.{name}" for name, array in merged.items() if not np.array_equal(array, before[name])}
    for name, change in found.items():
        delta = merged[name.removeprefix("base.")].astype(np.float64) - before[name.removeprefix("base.")]
        assert sorted(change.shape) == sorted(delta.shape)
        assert change.norm == pytest.approx(np.linalg.norm(delta), rel=1e-5)
        assert change.relative == pytest.approx(change.norm / np.linalg.norm(before[name.removeprefix("base.")]))
        rows = delta.reshape(len(delta), -1)
        sigma = np.linalg.svd(rows, compute_uv=False)
        assert change.largest == pytest.approx(sigma[0], rel=1e-5)
        assert change.effective_rank == np.count_nonzero(sigma > 1e-5 * sigma[0])
        assert set(change.adapters) <= Inspected.of(model).adapters


def test_every_low_rank_family_has_its_rank(rng: np.random.Generator) -> None:
    for family, rank in (("lora", 2), ("dylora", 2), ("lora_drop", 2), ("lokr", 4), ("dora", 10)):
        model = randomized(lg.adapt(dense(rng), family, rank=2, rng=rng, **FAMILIES.get(family, {})), rng)
        assert changes(model)["base.1.weight"].effective_rank == rank  # [16, 10]: DoRA scales all of it


def test_a_change_lost_in_rounding_has_no_rank(rng: np.random.Generator) -> None:
    (change,) = changes(lg.adapt(lg.FullyConnectedLayer(6, 6, rng=rng), "dora", rank=2, rng=rng)).values()
    assert 0 < change.relative < 1e-6
    assert change.effective_rank == 0


def test_several_adapters_of_one_weight_add_up(rng: np.random.Generator) -> None:
    model = lg.adapt(lg.FullyConnectedLayer(9, 9, rng=rng), rank=2, rng=rng)
    model.add_adapter("second", rank=3, rng=rng)
    (change,) = changes(randomized(model, rng)).values()
    assert change.effective_rank == 5
    assert {name.split(".")[0] for name in change.adapters} == {"default", "second"}


def test_files_of_parallel_form_have_the_same_changes(rng: np.random.Generator) -> None:
    model = adapted(dense(rng), "lora", rng)
    layer, file = changes(model), changes(lg.export_onnx(model))
    assert layer.keys() == file.keys()
    for name, change in layer.items():
        assert file[name].effective_rank == change.effective_rank == 2
        assert file[name].norm == pytest.approx(change.norm, rel=1e-6)
    assert changes(lg.export_onnx(model, form="merged")) == {}


def test_what_is_added_behind_a_nonlinearity_changes_no_weight(rng: np.random.Generator) -> None:
    with pytest.warns(UserWarning, match="cannot be merged"):
        layer = lg.StandardLoRAAdapter(lg.DenseLayer(6, 4, "relu", rng=rng), 2, rng=rng)
    found = values_of(Inspected.of(layer))
    assert found.changes == ()
    assert found.apart == ("lora.A", "lora.B")


def test_statistics_are_of_finite_entries() -> None:
    layer = lg.DenseLayer(3, 2, rng=0)
    weight = np.array([[1, -2], [0, np.nan], [np.inf, 5]], np.float32)
    state = {"weight": weight, "bias": np.full(2, np.nan, np.float32)}
    first, second = values_of(Inspected.of(layer.to_graph(), state=state)).weights
    assert (first.name, first.type, first.size) == ("weight", "float32[3, 2]", 6)
    assert (first.minimum, first.maximum, first.mean, first.zeros, first.nonfinite) == (-2, 5, 1, 1, 2)
    assert first.std == pytest.approx(np.std([1, -2, 0, 5]))
    assert (second.minimum, second.std, second.zeros, second.nonfinite) == (None, None, 0, 2)


def test_a_change_that_is_not_finite_has_no_rank(rng: np.random.Generator) -> None:
    model = adapted(dense(rng), "lora", rng)
    file = lg.export_onnx(model)
    (matrix,) = [tensor for tensor in file.graph.initializer if tensor.name == "default.lora_0_weight.A"]
    matrix.CopyFrom(numpy_helper.from_array(np.full((12, 2), np.nan, np.float32), matrix.name))
    found = changes(file)
    assert found["base.0.weight"].effective_rank == 0
    assert found["base.1.weight"].effective_rank == 2


def test_a_graph_without_its_state_has_no_values(rng: np.random.Generator) -> None:
    layer = dense(rng)
    with pytest.raises(ValueError, match=r"Sequential: the values of 0\.weight are not known: give the state"):
        values_of(Inspected.of(layer.to_graph()))
    assert len(values_of(Inspected.of(layer.to_graph(), state=layer.state)).weights) == 4


def test_what_drawings_say_of_weights(rng: np.random.Generator) -> None:
    model = Inspected.of(adapted(dense(rng), "lora", rng))
    found = details(values_of(model), model.graph)
    assert found.keys() == set(model.graph.parameters.values())
    assert found[model.graph.parameters["base.0.bias"]] == {
        "range": "0 … 0",
        "mean ± std": "0 ± 0",
        "zeros": "100.0%",
    }
    assert found[model.graph.parameters["base.0.weight"]]["ΔW"].startswith("effective rank 2, 1.")
    state = {name: np.full_like(array, np.nan) for name, array in model.state.items()}
    empty = details(values_of(Inspected.of(model.graph, state=state)), model.graph)
    assert empty[model.graph.parameters["base.0.bias"]] == {"not finite": "16"}
