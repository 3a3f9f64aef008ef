"""What is looked at: layers, graphs, files of every form, runs, and built-in layers by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lora_graph as lg
from lora_graph.adapters.runs import create
from lora_graph.errors import LoadError
from lora_graph.inspect.built_in import NAMES
from lora_graph.inspect.inspected import Inspected
from lora_graph.ir import Graph, Input, Parameter
from tests.onnx.forms.models import adapted, dense

SITES = {f"default.lora_{site}_weight.{name}" for site in (0, 1) for name in "AB"}


def test_a_layer(rng: np.random.Generator) -> None:
    model = adapted(dense(rng), "lora", rng)
    found = Inspected.of(model)
    assert found.layer is model
    assert found.graph == model.to_graph()
    assert found.state.keys() == model.state.keys()
    assert found.adapters == SITES
    assert [(record["family"], record["rank"]) for record in found.records] == [("lora", 2)]
    assert found.binding == {"batch": 1}
    assert Inspected.of(dense(rng)).adapters == frozenset()


def test_a_graph_with_and_without_its_state(rng: np.random.Generator) -> None:
    layer = dense(rng)
    graph = layer.to_graph()
    assert Inspected.of(graph).state == {}
    found = Inspected.of(graph, state=layer.state)
    assert found.graph is graph
    assert found.layer is None
    assert found.state.keys() == layer.state.keys()
    with pytest.raises(TypeError, match="state belongs to a Graph, got it with Sequential"):
        Inspected.of(layer, state={})


@pytest.mark.parametrize("form", ["parallel", "hot-swap", "web", "multi-adapter", "weighted"])
def test_files_tell_which_arrays_are_adapters(form: str, rng: np.random.Generator, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    lg.export_onnx(adapted(dense(rng), "lora", rng), path, form=form, opset=22)
    found = Inspected.of(path)
    assert (found.label, found.opset, found.layer) == (str(path), 22, None)
    leaves = {v.op.label for v in found.graph.values if isinstance(v.op, Input | Parameter)}
    assert found.adapters <= leaves
    assert leaves - found.adapters - {"x", "default.weight"} <= {
        *("base.0.weight", "base.0.bias", "base.1.weight", "base.1.bias"),
        *("0.weight", "0.bias", "1.weight", "1.bias", "adapter", "adapter_id"),
    }
    assert len(found.adapters) >= 4


def test_a_merged_file_has_no_adapters_apart(rng: np.random.Generator) -> None:
    found = Inspected.of(lg.export_onnx(adapted(dense(rng), "lora", rng), form="merged"))
    assert found.adapters == frozenset()
    assert [record["family"] for record in found.records] == ["lora"]


def test_a_run(rng: np.random.Generator, tmp_path: Path) -> None:
    base = tmp_path / "base.onnx"
    lg.export_onnx(dense(rng), base)
    create(tmp_path / "run", base, adapted(lg.load_onnx(base), "lora", rng), [])
    found = Inspected.of(tmp_path / "run")
    assert isinstance(found.layer, lg.AdaptedModel)
    assert found.adapters == SITES
    assert found.label == str(tmp_path / "run")


@pytest.mark.parametrize("name", NAMES)
def test_built_in_layers(name: str) -> None:
    found = Inspected.of(name)
    assert found.label == name
    assert type(found.layer).__name__ == name
    again = Inspected.of(name).state
    assert all(np.array_equal(array, again[key]) for key, array in found.state.items())
    assert found.binding.keys() == set(found.graph.dim_names)


def test_sizes_go_to_the_constructor_or_to_dimensions() -> None:
    found = Inspected.of("LSTMLayer", sizes={"hidden_size": 7, "time": 5})
    assert found.state["weight_hh"].shape == (28, 7)
    assert found.binding == {"batch": 1, "time": 5}
    with pytest.raises(ValueError, match="LSTMLayer has no dimension called 'width'; it has batch, time"):
        Inspected.of("LSTMLayer", sizes={"width": 5})
    with pytest.raises(ValueError, match=r"sizes\['time'\] must be at least 0, got -1"):
        Inspected.of("LSTMLayer", sizes={"time": -1})


def test_sizes_that_the_state_tells(rng: np.random.Generator) -> None:
    model = lg.export_onnx(adapted(dense(rng), "lora", rng), form="hot-swap")
    assert Inspected.of(model).binding == {"batch": 1, "rank_0": 0, "rank_1": 0}
    assert Inspected.of(model, sizes={"rank_0": 8}).binding == {"batch": 1, "rank_0": 8, "rank_1": 0}


def test_a_rank_that_is_chosen_at_run_time_is_the_largest(rng: np.random.Generator) -> None:
    model = lg.export_onnx(adapted(dense(rng), "dylora", rng), form="dynamic-rank")
    assert Inspected.of(model).binding == {"batch": 1, "rank_0": 2}


def test_dimensions_that_have_to_be_equal_are() -> None:
    a, b = (lg.ops.input(name, "float32", shape) for name, shape in (("a", ("m", "k")), ("b", ("k2", 3))))
    found = Inspected.of(Graph((a, b), {"y": a @ b}), sizes={"k": 5})
    assert found.binding["k"] == 5
    assert Inspected.of(Graph((a, b), {"y": a @ b}), sizes={"k2": 6}).binding["k"] == 6


@pytest.mark.parametrize("content", [None, b"", b"no model", b"\x08\x0a" * 9])
def test_what_cannot_be_read(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(LoadError, match=r"model\.onnx: "):
        Inspected.of(path)


@pytest.mark.parametrize(
    ("model", "message"), [("NoLayer", "neither a file nor a folder, nor a built-in"), (".", "not a run")]
)
def test_names_that_stand_for_nothing(model: Any, message: str) -> None:
    with pytest.raises(LoadError, match=message):
        Inspected.of(model)


def test_something_else_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="a model is a Layer, a Graph, a path, bytes"):
        Inspected.of(3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="sizes must be a dict of sizes"):
        Inspected.of("DenseLayer", sizes=3)  # type: ignore[arg-type]
