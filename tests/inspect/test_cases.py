"""What a model is run on: inputs that make sense, and each of the ways that a form can be run."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import lora_graph as lg
from lora_graph import ops
from lora_graph.errors import LoadError
from lora_graph.inspect.cases import Case, cases
from lora_graph.inspect.draw import Drawing
from lora_graph.ir import Graph
from lora_graph.layers.imported import FORM
from lora_graph.onnx import read_model
from lora_graph.onnx.forms.dynamic_rank import RANKS
from tests.onnx.forms.models import adapted, dense


def drawn(graph: Graph, rng: np.random.Generator, batch: int = 50, **sizes: int) -> dict[str, Any]:
    return Drawing(graph, sizes, rng).inputs(batch)


def test_indices_are_within_their_table_and_masks_start_with_one(rng: np.random.Generator) -> None:
    ids, kinds, mask, flag, number = (
        ops.input(name, dtype, ("batch", "time"))
        for name, dtype in (("ids", "int64"), ("kinds", "int32"), ("m", "int64"), ("flag", "bool"), ("n", "int64"))
    )
    words, sorts = ops.parameter("words", "float32", (7, 4)), ops.parameter("sorts", "float32", (2, 4))
    rows = ops.gather(words, ids) + ops.gather(sorts, ops.unsqueeze(kinds, 0).squeeze(0).astype("int64"))
    y = rows * ops.unsqueeze(mask.astype("float32"), 2)
    graph = Graph((ids, kinds, mask, flag, number), {"y": y, "flag": ops.logical_not(flag), "n": number + 1})
    found = drawn(graph, rng)
    assert {array.shape for array in found.values()} == {(50, 16)}
    assert set(found["ids"].flat) == set(range(7))
    assert set(found["kinds"].flat) == {0, 1}
    for name in ("m", "flag"):
        assert set(found[name].flat) == {0, 1}
        assert (found[name][:, 0] == 1).all()
    assert found["n"].max() > 1
    assert found["kinds"].dtype == np.int32


def test_sizes_are_given_or_agree_where_they_have_to(rng: np.random.Generator) -> None:
    x, past = ops.input("x", "float32", ("batch", "time", 3)), ops.input("past", "float32", ("n", "before", 3))
    total = ops.input("total", "float32", ("batch", "all", 3))
    joined = ops.concat([past, x], axis=1)
    graph = Graph((x, past, total), {"y": joined + total})
    found = drawn(graph, rng, 4, before=5)
    assert [array.shape for array in found.values()] == [(4, 16, 3), (4, 5, 3), (4, 21, 3)]
    with pytest.raises(ValueError, match=r"'space'; they have all, batch, before, n, time"):
        drawn(graph, rng, space=3)


def test_a_model_of_fixed_size_is_run_once(rng: np.random.Generator) -> None:
    x = ops.input("x", "float32", (2, 3))
    found = list(cases(Graph((x,), {"y": ops.tanh(x)}), {}, (1, 7), {}, rng))
    assert [(case.label, case.given.inputs["x"].shape) for case in found] == [("fixed size", (2, 3))]


def of_form(form: str, family: str, rng: np.random.Generator, **more: Any) -> tuple[Graph, list[Case]]:
    layer = adapted(dense(rng), family, rng)
    if form in ("multi-adapter", "weighted"):
        layer.add_adapter("other", targets="*", rank=3, rng=rng)
    read = read_model(lg.export_onnx(layer, form=form))
    return read.graph, list(cases(read.graph, read.metadata, (1, 4), {}, rng, **more))


def test_a_dynamic_rank_takes_every_rank(rng: np.random.Generator) -> None:
    _, found = of_form("dynamic-rank", "dylora", rng)
    assert [int(case.given.inputs["rank"]) for case in found] == [1, 2, 1, 2]
    assert found[1].label == "batch 1, rank 2"


def test_several_adapters_are_chosen_in_turn(rng: np.random.Generator) -> None:
    _, found = of_form("multi-adapter", "lora", rng)
    assert [case.given.inputs["adapter"].tolist() for case in found] == [[1], [1, 0, -1, 1]]


def test_weights_are_theirs_and_random(rng: np.random.Generator) -> None:
    _, found = of_form("weighted", "lora", rng)
    assert [sorted(case.given.overrides) for case in found] == [[], ["default.weight", "other.weight"]] * 2


def test_matrices_are_none_and_of_two_ranks(rng: np.random.Generator) -> None:
    graph, found = of_form("hot-swap", "lora", rng)
    assert [case.label.partition(", ")[2] for case in found[:3]] == [
        "no adapter",
        "random adapter of rank 4",
        "random adapter of rank 1",
    ]
    assert found[0].given.overrides == {}
    shapes = {name: array.shape for name, array in found[1].given.overrides.items()}
    assert shapes == {n: tuple(d if isinstance(d, int) else 4 for d in graph.parameters[n].shape) for n in shapes}
    assert len(shapes) == 4


def test_required_matrices_are_inputs_and_no_batch(rng: np.random.Generator) -> None:
    graph, found = of_form("web", "lora", rng)
    assert [len(case.given.inputs["x"]) for case in found] == [1, 1, 4, 4]
    assert set(found[0].given.inputs) == set(graph.input_names)
    given = {name: np.ones((1, 1), np.float32) for name in graph.input_names if name != "x"}
    _, found = of_form("web", "lora", rng, matrices=given)
    assert [case.label for case in found] == ["batch 1, the adapter", "batch 4, the adapter"]
    assert all(found[0].given.inputs[name] is array for name, array in given.items())


@pytest.mark.parametrize("text", ["{}", "[", "[1]", '{"a": [true]}', '{"a": 1.5}', '"rank"'])
def test_metadata_that_is_something_else_is_an_error(text: str, rng: np.random.Generator) -> None:
    x = ops.input("x", "float32", (2, 3))
    with pytest.raises(LoadError, match=RANKS):
        list(cases(Graph((x,), {"y": x}), {FORM: "dynamic-rank", RANKS: text}, (1,), {}, rng))
