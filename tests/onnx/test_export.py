"""Layers as ONNX models: every family in both forms against NumPy, names and metadata, and models read back."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import lora_graph as lg
from lora_graph.errors import LoadError, MergeError
from lora_graph.ir import Graph, input  # noqa: A004
from lora_graph.layers.imported import ADAPTERS, FORM
from lora_graph.onnx import lower, read_model
from lora_graph.rewrite.engine import rewrite
from lora_graph.rewrite.fuse import ACCUMULATE
from lora_graph.rewrite.rule import Facts

Array = np.ndarray[Any, Any]
TOLERANCE = {"float32": 1e-5, "float64": 1e-12}
IN, OUT = 12, 8


@dataclass(frozen=True)
class Case:
    """An adapter family, how to make one, and its change of the weight in NumPy."""

    name: str
    make: Callable[..., lg.Adapter]
    delta: Callable[[Any, Callable[[str], Array]], Array]


def pair(adapter: Any, get: Callable[[str], Array], rank: int | None = None) -> Array:
    return get("lora.A")[:, :rank] @ get("lora.B")[:rank]


CASES = [
    # the scale is 1 in the second one, so that nothing is folded
    Case("lora", lambda b, **o: lg.StandardLoRAAdapter(b, 3, 6, **o), lambda a, get: 2 * pair(a, get)),
    Case("lora scale 1", lambda b, **o: lg.StandardLoRAAdapter(b, 3, **o), pair),
    Case("dylora", lambda b, **o: lg.DyLoRAAdapter(b, 4, [1, 2, 4], 6, **o), lambda a, get: 1.5 * pair(a, get)),
    Case(
        "lokr",
        lambda b, **o: lg.LoKrAdapter(b, 4, 6, **o),
        lambda a, get: 1.5 * np.kron(get("lokr.A"), get("lokr.B")).T,
    ),
    Case("lora_drop", lambda b, **o: lg.LoRADropAdapter(b, 3, 0.25, 6, **o), lambda a, get: 0.75 * 2 * pair(a, get)),
    Case(
        "lora_drop none",
        lambda b, **o: lg.LoRADropAdapter(b, 3, 0.25, 6, inference_scaling="none", **o),
        lambda a, get: 2 * pair(a, get),
    ),
]
IDS = [case.name for case in CASES]


def filled(layer: lg.Layer, seed: int = 0) -> lg.Layer:
    """``layer`` with parameters that are all away from zero."""
    rng = np.random.default_rng(seed)
    for name, array in layer.state.items():
        layer.set_parameter(name, rng.standard_normal(array.shape) / 2)
    return layer


def built(case: Case, *, site: str = "output", dtype: str = "float32", activation: Any = None, **options: Any) -> Any:
    base = lg.DenseLayer(IN, OUT, activation, dtype=dtype, rng=0)
    return filled(case.make(base, site=site, rng=1, **options))


def truth(case: Case, layer: Any, x: Array, activation: Callable[[Array], Array] = lambda h: h) -> Array:
    """What the adapter computes in evaluation, in float64."""
    state = {name: array.astype(np.float64) for name, array in layer.state.items()}
    x, delta = x.astype(np.float64), case.delta(layer, state.__getitem__)
    w, b = state["base.weight"], state["base.bias"]
    return activation(x @ (w + delta) + b) if layer.site == "weight" else activation(x @ w + b) + x @ delta


def meets(actual: Array, expected: Array) -> None:
    """The invariant: ‖error‖∞ ≤ tolerance · ‖reference‖∞."""
    assert actual.shape == expected.shape
    if expected.size:
        assert np.abs(actual - expected).max() <= TOLERANCE[actual.dtype.name] * np.abs(expected).max()


def samples(*lead: int, dtype: str = "float32") -> Array:
    return np.random.default_rng(9).standard_normal((*lead, IN)).astype(dtype)


def initializers(model: onnx.ModelProto) -> dict[str, Array]:
    return {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def metadata(model: onnx.ModelProto) -> dict[str, str]:
    return {prop.key: prop.value for prop in model.metadata_props}


def batches(case: Case, form: str) -> tuple[int, ...]:
    """Sizes of batches. ONNX Runtime does not multiply one matrix with an empty batch of them, as LoKr's A X does."""
    return (1, 7) if case.name == "lokr" and form == "parallel" else (0, 1, 7)


def relu(h: Array) -> Array:
    return np.maximum(h, 0)


# -- the invariant -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("form", ["parallel", "merged"])
@pytest.mark.parametrize(("site", "activation"), [("output", None), ("weight", None), ("weight", "relu")])
@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_every_family_in_every_form(case: Case, site: str, activation: Any, form: str, dtype: str) -> None:
    layer = built(case, site=site, activation=activation, dtype=dtype)
    before = {name: array.copy() for name, array in layer.state.items()}
    model = lg.export_onnx(layer, form=form)
    onnx.checker.check_model(model, full_check=True)
    session = lg.Session(model)
    for batch in batches(case, form):
        x = samples(batch, dtype=dtype)
        y = session.run(x)
        assert y.dtype == dtype
        meets(y, truth(case, layer, x, relu if activation else lambda h: h))
    assert all(layer.state[name].tobytes() == array.tobytes() for name, array in before.items())
    if form == "merged":
        assert set(initializers(model)) == {"base.weight", "base.bias"}


@pytest.mark.parametrize("opset", range(21, 27))
@pytest.mark.parametrize("form", ["parallel", "merged"])
def test_every_opset(opset: int, form: str) -> None:
    layers: list[Any] = [built(case, site="weight", activation="silu") for case in CASES]
    for case, layer in zip(CASES, layers, strict=True):
        model = lg.export_onnx(layer, form=form, opset=opset)
        onnx.checker.check_model(model, full_check=True)
        assert [entry.version for entry in model.opset_import] == [opset]
        x = samples(5)
        meets(lg.Session(model).run(x), truth(case, layer, x, lambda h: h / (1 + np.exp(-h))))


@pytest.mark.parametrize("opset", [21, 26])
@pytest.mark.parametrize(
    ("shape", "lead", "form"),
    [
        ((IN,), [()], "parallel"),
        (("n", IN), [(4,), (0,)], "parallel"),
        (("batch", "time", IN), [(2, 3), (1, 1), (0, 3)], "parallel"),
        ((3, "time", 2, IN), [(3, 5, 2)], "parallel"),
        (("n", IN), [(4,), (0,)], "merged"),
        (("batch", "time", IN), [(2, 3), (1, 1), (0, 3)], "merged"),
        ((3, "time", 2, IN), [(3, 5, 2)], "merged"),
    ],
)
@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_every_input_rank(case: Case, shape: Any, lead: list[tuple[int, ...]], form: str, opset: int) -> None:
    layer = built(case)
    model = lg.export_onnx(layer, form=form, opset=opset, input_shape=shape)
    onnx.checker.check_model(model, full_check=True)
    for item, features in ((model.graph.input[0], IN), (model.graph.output[0], OUT)):
        found = [d.dim_param or d.dim_value for d in item.type.tensor_type.shape.dim]
        assert found == [*shape[:-1], features]
    session = lg.Session(model)
    for sizes in lead:
        if 0 in sizes and 0 not in batches(case, form):
            continue
        x = samples(*sizes)
        meets(session.run(x), truth(case, layer, x))


def test_a_whole_model() -> None:
    layers = [
        lg.StandardLoRAAdapter(lg.DenseLayer(IN, 16, "gelu_tanh", rng=0), 2, 4, site="weight", rng=1),
        lg.LoKrAdapter(lg.FullyConnectedLayer(16, 16, "tanh", rng=2), 4, site="weight", rng=3),
        lg.DyLoRAAdapter(lg.DenseLayer(16, OUT, rng=4), 4, [2, 4], rng=5),
    ]
    model = filled(lg.Sequential(layers)).eval()
    x = samples(6)
    expected = model.forward(x)
    for form in ("parallel", "merged"):
        exported = lg.export_onnx(model, form=form)
        onnx.checker.check_model(exported, full_check=True)
        meets(lg.Session(exported).run(x), expected.astype(np.float64))
        names = set(initializers(exported))
        assert {"0.base.weight", "1.base.weight", "2.base.weight"} <= names
        assert ({"0.lora.A", "1.lokr.B", "2.lora.B"} <= names) == (form == "parallel")
        assert len({node.name for node in exported.graph.node}) == len(exported.graph.node)


def test_the_mode_of_the_layer_does_not_matter() -> None:
    for case in CASES:
        layer = built(case)
        layer.train()
        first = lg.export_onnx(layer)
        assert layer.is_training
        layer.eval()
        assert lg.export_onnx(layer) == first
        assert [item.name for item in first.graph.input] == ["x"]


@pytest.mark.parametrize("form", ["parallel", "merged"])
@pytest.mark.parametrize("scaling", ["max_rank", "per_rank"])
@pytest.mark.parametrize("site", ["output", "weight"])
def test_every_rank_of_dylora_is_its_slice(form: str, scaling: str, site: str) -> None:
    base = lg.DenseLayer(IN, OUT, rng=0)
    layer = filled(lg.DyLoRAAdapter(base, 4, [1, 2, 4], 6, rank_scaling=scaling, site=site, rng=1))
    x = samples(5)
    assert isinstance(layer, lg.DyLoRAAdapter)
    for rank in layer.active_ranks:
        layer.set_deployment_rank(rank)
        model = lg.export_onnx(layer, form=form)
        scale = 6 / (rank if scaling == "per_rank" else 4)
        case = Case("slice", lg.DyLoRAAdapter, lambda a, get, r=rank, s=scale: s * pair(a, get, r))  # type: ignore[misc]
        meets(lg.Session(model).run(x), truth(case, layer, x))
        if form == "parallel":
            shapes = {name: array.shape for name, array in initializers(model).items()}
            assert (shapes["lora.A"], shapes["lora.B"]) == ((IN, rank), (rank, OUT))


# -- names and metadata ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES, ids=IDS)
@pytest.mark.parametrize("site", ["output", "weight"])
def test_names_and_metadata(case: Case, site: str) -> None:
    layer = built(case, site=site)
    model = lg.export_onnx(layer)
    branch = layer.branch
    assert [item.name for item in model.graph.input] == ["x"]
    assert [item.name for item in model.graph.output] == ["y"]
    assert {"base.weight", "base.bias", f"{branch}.A", f"{branch}.B"} <= set(initializers(model))
    known = metadata(model)
    assert known[FORM] == "parallel"
    assert known["lora_graph.version"] == lg.__version__
    (described,) = json.loads(known[ADAPTERS])
    assert described["family"] == layer.family
    assert (described["rank"], described["alpha"], described["site"]) == (layer.rank, layer.alpha, site)
    assert described["scaling"] == layer.scaling
    assert described["path"] == ""
    assert described["parameters"] == [f"{branch}.A", f"{branch}.B"]
    arrays = initializers(model)
    changed = [name for name in described["parameters"] if arrays[name].tobytes() != layer.state[name].tobytes()]
    assert described["scale_folded_into"] == changed
    assert len(changed) == (0 if layer.scaling == 1 else 1)


@pytest.mark.parametrize(("rank_scaling", "folded"), [("max_rank", 1.5), ("per_rank", 3.0)])
@pytest.mark.parametrize("site", ["output", "weight"])
def test_metadata_of_a_slice(site: str, rank_scaling: str, folded: float) -> None:
    """A deployed at a lower rank is cut, which is no scaling; B is cut and holds s."""
    layer = filled(lg.DyLoRAAdapter(lg.DenseLayer(IN, OUT), 4, [1, 2, 4], 6, site=site, rank_scaling=rank_scaling))
    layer.set_deployment_rank(2)
    model = lg.export_onnx(layer)
    (described,) = json.loads(metadata(model)[ADAPTERS])
    assert (described["rank"], described["exported_rank"], described["scaling"]) == (4, 2, folded)
    assert described["scale_folded_into"] == ["lora.B"]
    arrays = initializers(model)
    np.testing.assert_array_equal(arrays["lora.A"], layer.get_parameter("lora.A")[:, :2])
    np.testing.assert_allclose(arrays["lora.B"], folded * layer.get_parameter("lora.B")[:2], rtol=1e-6)
    assert lg.load_onnx(model).get_diagnostics()["adapters"] == "model: dylora rank 2"


def test_every_value_has_its_inferred_shape() -> None:
    for case in CASES:
        model = lg.export_onnx(built(case, site="weight", activation="gelu"))
        named = {item.name for item in (*model.graph.value_info, *model.graph.output)}
        assert {name for node in model.graph.node for name in node.output if name} <= named


def test_merged_metadata_names_no_parameters() -> None:
    (described,) = json.loads(metadata(lg.export_onnx(built(CASES[0]), form="merged"))[ADAPTERS])
    assert (described["parameters"], described["scale_folded_into"]) == ([], [])
    assert (described["family"], described["rank"], described["alpha"]) == ("lora", 3, 6)


def test_a_plain_layer_has_no_adapters() -> None:
    layer = lg.DenseLayer(IN, OUT, "relu", rng=0)
    for form in ("parallel", "merged"):
        model = lg.export_onnx(layer, form=form)
        assert set(initializers(model)) == {"weight", "bias"}
        assert json.loads(metadata(model)[ADAPTERS]) == []


# -- reading back ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("site", ["output", "weight"])
@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_reading_back_and_exporting_again_never_scales_twice(case: Case, site: str, dtype: str, tmp_path: Path) -> None:
    layer = built(case, site=site, dtype=dtype)
    x = samples(5, dtype=dtype)
    expected = truth(case, layer, x)
    first = lg.export_onnx(layer, tmp_path / "first.onnx")
    loaded = lg.load_onnx(tmp_path / "first.onnx")
    meets(loaded.forward(x), expected)
    meets(lg.compile(loaded)(x), expected)
    second = lg.export_onnx(loaded)
    meets(lg.Session(second).run(x), expected)
    assert {n: a.tobytes() for n, a in initializers(second).items()} == {
        n: a.tobytes() for n, a in initializers(first).items()
    }
    assert metadata(second) == metadata(first)
    third = lg.load_onnx(lg.export_onnx(lg.load_onnx(second)))
    meets(third.forward(x), expected)
    merged = lg.export_onnx(loaded, form="merged")
    meets(lg.Session(merged).run(x), expected)
    assert set(initializers(merged)) == {"base.weight", "base.bias"}
    assert metadata(merged) == metadata(lg.export_onnx(layer, form="merged"))
    again = lg.load_onnx(merged)
    meets(again.forward(x), expected)
    meets(lg.Session(lg.export_onnx(again, form="merged")).run(x), expected)


@pytest.mark.parametrize("preset", ["train", "inference", "export", "deploy"])
@pytest.mark.parametrize("site", ["output", "weight"])
@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_the_structure_comes_back(case: Case, site: str, preset: str) -> None:
    layer = built(case, site=site, activation="relu" if site == "weight" else None)
    graph, state, _ = lg.optimize(layer, preset)
    read = read_model(lower(graph, state))
    # a product that is added in one go is written as the two ops it is
    assert rewrite(read.graph, ACCUMULATE, Facts())[0] == graph
    assert ("AddMatMul" in graph.op_counts()) == (read.graph != graph)
    assert {name: array.tobytes() for name, array in read.state.items()} == {
        name: state[name].tobytes() for name in graph.parameters
    }


def test_parts_of_a_model_keep_their_adapters() -> None:
    """An exported model inside another one: its adapters are told with their new paths, and scaled no more."""
    first = built(CASES[0])
    loaded = lg.load_onnx(lg.export_onnx(first))
    model = lg.Sequential([loaded, lg.DenseLayer(OUT, OUT, rng=3)])
    exported = lg.export_onnx(model)
    (described,) = json.loads(metadata(exported)[ADAPTERS])
    assert described["path"] == "0"
    assert described["parameters"] == ["0.lora.A", "0.lora.B"]
    assert described["scale_folded_into"] == ["0.lora.B"]
    x = samples(4)
    meets(lg.Session(exported).run(x), model.forward(x).astype(np.float64))
    merged = lg.export_onnx(model, form="merged")
    assert set(initializers(merged)) == {"0.base.weight", "0.base.bias", "1.weight", "1.bias"}
    meets(lg.Session(merged).run(x), model.forward(x).astype(np.float64))


@pytest.mark.parametrize("case", CASES, ids=IDS)
@pytest.mark.parametrize("site", ["output", "weight"])
def test_a_model_read_back_trains_further(case: Case, site: str) -> None:
    layer = built(case, site=site)
    loaded = lg.load_onnx(lg.export_onnx(layer))
    branch = layer.branch
    assert set(loaded.trainable_parameters()) == {f"{branch}.A", f"{branch}.B"}
    before = {name: array.copy() for name, array in loaded.state.items()}
    x = samples(40)
    history = lg.fit(loaded, (x, x[:, :OUT]), epochs=20, optimizer=lg.Adam(0.02))
    assert history.epoch_losses[-1] < 0.8 * history.epoch_losses[0]
    for name, array in before.items():
        assert (loaded.state[name].tobytes() == array.tobytes()) == name.startswith("base.")
    y = lg.Session(lg.export_onnx(loaded)).run(x)
    meets(y, loaded.forward(x).astype(np.float64))
    meets(lg.Session(lg.export_onnx(loaded, form="merged")).run(x), loaded.forward(x).astype(np.float64))


def test_training_further_is_training_on() -> None:
    """SGD on s·B instead of B is another parametrization, but with s = 1 the steps are those of the adapter itself."""
    layer = built(CASES[1], dtype="float64")
    loaded = lg.load_onnx(lg.export_onnx(layer))
    x = samples(16, dtype="float64")
    for model in (layer, loaded):
        lg.fit(model, (x, x[:, :OUT]), epochs=3, optimizer=lg.SGD(0.1), seed=5)
    for name, array in layer.state.items():
        meets(loaded.state[name], array)


def test_arrays_of_a_loaded_model_are_its_own() -> None:
    layer = built(CASES[0])
    model = lg.export_onnx(layer)
    loaded = lg.load_onnx(model)
    loaded.set_parameter("lora.A", np.zeros((IN, 3)))
    assert initializers(model)["lora.A"].any()
    assert layer.get_parameter("lora.A").any()


def test_metadata_that_cannot_be_trusted() -> None:
    model = lg.export_onnx(built(CASES[0]))
    for text in ("no JSON", "3", '{"family": "lora"}', '["lora"]', '[{"family": "lora"}]'):
        for prop in model.metadata_props:
            if prop.key == ADAPTERS:
                prop.value = text
        with pytest.raises(LoadError, match=ADAPTERS):
            lg.load_onnx(model)


def test_a_model_may_have_several_inputs_and_no_batch() -> None:
    a, b = input("a", np.float32, ("n", 2)), input("b", np.float32, ("n", 2))
    layer = lg.load_onnx(lower(Graph((a, b), {"y": (a + b).sum()}), {}))
    assert layer.forward({"a": np.ones((3, 2)), "b": np.full((3, 2), 2)}) == 18


# -- files and sessions ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["parallel", "merged"])
def test_a_file_is_the_model(form: str, tmp_path: Path) -> None:
    layer = built(CASES[0])
    path = tmp_path / "model.onnx"
    model = lg.export_onnx(layer, path, form=form)
    assert os.listdir(tmp_path) == ["model.onnx"]
    assert path.read_bytes() == model.SerializeToString()
    assert model == lg.export_onnx(layer, str(path), form=form) == lg.export_onnx(layer, form=form)
    onnx.checker.check_model(str(path), full_check=True)
    x = samples(3)
    meets(lg.Session(path).run(x), truth(CASES[0], layer, x))


def test_a_session_takes_a_layer() -> None:
    x = samples(3)
    for case in CASES:
        layer = built(case)
        session = lg.Session(layer)
        meets(session.run(x), truth(case, layer, x))
        meets(session.run({"x": x}), truth(case, layer, x))
    loaded = lg.load_onnx(lg.export_onnx(layer))
    meets(lg.Session(loaded).run(x), truth(case, layer, x))


REFUSED: list[tuple[Callable[[], lg.Layer], dict[str, Any], type[Exception], str]] = [
    (lambda: built(CASES[0]), {"form": "folded"}, ValueError, "form must be one of parallel, merged, .*got 'folded'"),
    (lambda: built(CASES[0]), {"form": None}, TypeError, "form must be one of"),
    (lambda: built(CASES[0]), {"opset": 20}, ValueError, r"opset must be in 21\.\.26, got 20"),
    (lambda: built(CASES[0]), {"opset": 27}, ValueError, r"opset must be in 21\.\.26, got 27"),
    (lambda: built(CASES[0]), {"opset": 21.0}, TypeError, "opset must be an int"),
    (lambda: built(CASES[0]), {"opset": True}, TypeError, "opset must be an int"),
    (lambda: built(CASES[0]), {"input_shape": ("batch", 5)}, ValueError, r"\[12\].*\[batch, 5\]"),
    (lambda: built(CASES[0]), {"input_shape": ()}, ValueError, r"\[12\]"),
    (
        lambda: built(CASES[0], dtype="float64", site="weight", activation="gelu"),
        {},
        ValueError,
        r"no (Gelu|Erf) for float64",
    ),
]


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize(("make", "options", "kind", "message"), REFUSED)
def test_refusals_write_nothing(
    make: Callable[[], lg.Layer],
    options: dict[str, Any],
    kind: type[Exception],
    message: str,
    old: bool,
    tmp_path: Path,
) -> None:
    path = tmp_path / "model.onnx"
    if old:
        path.write_bytes(b"old")
    with pytest.raises(kind, match=message):
        lg.export_onnx(make(), path, **options)
    assert os.listdir(tmp_path) == ["model.onnx"] * old
    assert not old or path.read_bytes() == b"old"


@pytest.mark.filterwarnings("ignore:.*cannot be merged into it exactly")
@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_what_cannot_be_merged_exactly_is_refused(case: Case, tmp_path: Path) -> None:
    layer = built(case, activation="relu")
    path = tmp_path / "model.onnx"
    path.write_bytes(b"old")
    with pytest.raises(MergeError, match=r"cannot be merged exactly.*site='weight', or export form='parallel'"):
        lg.export_onnx(layer, path, form="merged")
    assert os.listdir(tmp_path) == ["model.onnx"]
    assert path.read_bytes() == b"old"
    x = samples(4)
    meets(lg.Session(lg.export_onnx(layer)).run(x), truth(case, layer, x, relu))
    loaded = lg.load_onnx(lg.export_onnx(layer))
    with pytest.raises(MergeError):
        lg.export_onnx(loaded, form="merged")


def test_paths_that_cannot_be_written_to(tmp_path: Path) -> None:
    layer = built(CASES[0])
    with pytest.raises(FileNotFoundError, match="nowhere"):
        lg.export_onnx(layer, tmp_path / "nowhere" / "model.onnx")
    with pytest.raises(IsADirectoryError, match="directory"):
        lg.export_onnx(layer, tmp_path)
    assert os.listdir(tmp_path) == []


def test_only_layers_are_exported() -> None:
    with pytest.raises(TypeError, match="layer must be a Layer"):
        lg.export_onnx("layer")  # type: ignore[arg-type]
