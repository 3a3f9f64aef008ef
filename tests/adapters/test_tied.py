"""One weight in several uses, as a tied embedding and head: adapted in one of them or in both, merged and untied."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import lora_graph as lg
from tests.reference import close

Array = np.ndarray[Any, Any]
IDS = np.asarray([[0, 3, 8], [5, 5, 1]])


def arrays() -> dict[str, Array]:
    rng = np.random.default_rng(0)
    return {"E": rng.standard_normal((9, 4)).astype(np.float32), "W": rng.standard_normal((4, 4)).astype(np.float32)}


def tied() -> lg.Layer:
    """y = tanh(E[ids] W) Eᵀ"""
    nodes = [
        helper.make_node("Gather", ["E", "ids"], ["h"], name="/model/embed/Gather"),
        helper.make_node("MatMul", ["h", "W"], ["k"], name="/model/fc/MatMul"),
        helper.make_node("Tanh", ["k"], ["t"]),
        helper.make_node("Transpose", ["E"], ["ET"], perm=[1, 0]),
        helper.make_node("MatMul", ["t", "ET"], ["y"], name="/model/head/MatMul"),
    ]
    graph = helper.make_graph(
        nodes,
        "tied",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["n", "s"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", "s", 9])],
        [numpy_helper.from_array(array, name) for name, array in arrays().items()],
    )
    return lg.load_onnx(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10))


def computed(embedding: Array, head: Array) -> Array:
    found: Array = np.tanh(embedding[IDS] @ arrays()["W"]) @ head.T
    return found


PAIRS = {"E": ("lora_E", 9, 4), "E.transposed": ("lora_E_transposed", 4, 9)}
CHOSEN: dict[str, tuple[Any, list[str]]] = {
    "the embedding": ("E", ["E"]),
    "the head": ("E.transposed", ["E.transposed"]),
    "the head by its module": ("head", ["E.transposed"]),
    "the embedding by its module": ("model.embed", ["E"]),
    "both": (["E", "E.transposed"], ["E", "E.transposed"]),
    "both by a glob": ("E*", ["E", "E.transposed"]),
    "by kind": (lambda target: target.kind == "embedding", ["E"]),
}
rows = pytest.mark.parametrize("what", CHOSEN)


def adapted(what: str) -> tuple[lg.AdaptedModel, Array, Array]:
    """The model, and its embedding and head as they are with the adapters."""
    targets, places = CHOSEN[what]
    model = lg.adapt(tied(), targets=targets, rank=2, alpha=3, rng=0)
    assert [site.label for site in model.adapters["default"].sites] == places
    weights = {"E": arrays()["E"], "E.transposed": arrays()["E"]}
    for place, branch in zip(places, model.adapters["default"].branches, strict=True):
        _, inner, outer = PAIRS[place]
        rng = np.random.default_rng(len(place))
        a, b = rng.standard_normal((inner, 2)).astype(np.float32), rng.standard_normal((2, outer)).astype(np.float32)
        model.set_parameter(f"default.{branch}.A", a)
        model.set_parameter(f"default.{branch}.B", b)
        change = 1.5 * a @ b
        weights[place] = weights[place] + (change if place == "E" else change.T)
    return model.eval(), weights["E"], weights["E.transposed"]


def test_each_use_is_a_target_of_its_own() -> None:
    targets = [(t.name, t.kind, t.shape, t.module) for t in lg.AdaptedModel(tied()).targets()]
    assert targets == [
        ("E", "embedding", (9, 4), "model.embed"),
        ("W", "linear", (4, 4), "model.fc"),
        ("E.transposed", "linear", (9, 4), "model.head"),
    ]
    linear = lg.adapt(tied(), rank=1).adapters["default"]
    assert [site.label for site in linear.sites] == ["W", "E.transposed"]


@rows
def test_only_the_chosen_uses_change(what: str) -> None:
    model, embedding, head = adapted(what)
    close(model.forward(IDS), computed(embedding, head), 1e-5)
    for form in ("parallel", "merged"):
        close(lg.Session(lg.export_onnx(model, form=form)).run(IDS), computed(embedding, head), 1e-5)


@rows
def test_merging_unties_and_unmerging_ties_again(what: str) -> None:
    model, embedding, head = adapted(what)
    before = model.base.state
    merged = model.merge_to_base()
    model.merge()
    for layer in (model, merged.eval()):
        close(layer.forward(IDS), computed(embedding, head), 1e-5)
    close(model.base.get_parameter("E"), embedding, 1e-6)
    close(merged.get_parameter("E.transposed"), head, 1e-6)
    model.unmerge()
    assert model.base.state.keys() == before.keys() == {"E", "W"}
    assert all(model.base.state[name] is array for name, array in before.items())
    close(model.forward(IDS), computed(embedding, head), 1e-5)
    model.merge()
    close(model.forward(IDS), computed(embedding, head), 1e-5)


def test_what_is_merged_elsewhere_stays_tied() -> None:
    model = lg.adapt(tied(), targets="W", rank=1, rng=0)
    model.merge()
    assert model.base.state.keys() == {"E", "W"}
    exported = lg.export_onnx(model)
    assert [tensor.name for tensor in exported.graph.initializer].count("base.E") == 1
    assert len(exported.graph.initializer) == 2


def test_the_original_and_its_file_stay_as_they_were(tmp_path: Path) -> None:
    base = tied()
    model, _, _ = adapted("both")
    model.save_adapter(tmp_path / "a.safetensors")
    again = lg.AdaptedModel(base)
    again.load_adapter(tmp_path / "a.safetensors")
    close(again.eval().forward(IDS), model.forward(IDS), 1e-6)
    again.merge()
    assert base.state.keys() == {"E", "W"}
    close(base.forward(IDS), computed(arrays()["E"], arrays()["E"]), 1e-5)


def test_training_moves_each_use_by_itself() -> None:
    model = lg.adapt(tied(), targets="E*", rank=2, rng=0)
    target = np.random.default_rng(1).integers(0, 9, IDS.shape)
    history = lg.fit(model, (IDS, target), loss="cross_entropy", optimizer=lg.Adam(0.05), epochs=60)
    assert history.losses[-1] < 0.3 * history.losses[0]
    assert all(np.abs(model.get_parameter(f"default.{name}.B")).max() > 0 for name in ("lora_E", "lora_E_transposed"))
    y = model.eval().forward(IDS)
    model.merge()
    close(model.forward(IDS), y, 1e-5)


@pytest.mark.parametrize("family", ["lokr", "dora"])
def test_families_that_change_the_weight_itself(family: str) -> None:
    model = lg.adapt(tied(), family, targets="E.transposed", rank=3, rng=0).eval()
    for name, array in model.trainable_parameters().items():
        model.set_parameter(name, array + 0.1)
    y = model.forward(IDS)
    assert np.abs(y - tied().forward(IDS)).max() > 1e-3
    model.merge()
    close(model.forward(IDS), y, 1e-5)
    assert np.array_equal(model.base.get_parameter("E"), arrays()["E"])


def test_a_layer_of_ones_own_cannot_be_untied() -> None:
    class Both(lg.Layer):
        def __init__(self) -> None:
            super().__init__(input_shape=(4,), output_shape=(4,))
            self.add_parameter("w", arrays()["W"])

        def build(self, ctx: lg.Context, x: lg.Value) -> lg.Value:
            return (x @ ctx.param("w")).tanh() @ ctx.param("w").T

    model = lg.adapt(Both(), targets="w", rank=2, rng=0)
    model.set_parameter("default.lora.B", np.ones((2, 4), np.float32))
    with pytest.raises(lg.MergeError, match="uses w in several ways that would need weights of their own"):
        model.merge()


def test_the_two_files_of_an_untied_model_are_read_alike() -> None:
    model, embedding, head = adapted("both")
    again = lg.load_onnx(lg.export_onnx(model, form="merged"))
    assert isinstance(lg.export_onnx(again), onnx.ModelProto)
    close(again.forward(IDS), computed(embedding, head), 1e-5)
