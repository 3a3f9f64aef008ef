"""Whole models: which weights are chosen, that adapting starts as the base and leaves it alone, and what merges."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import lora_graph as lg
from lora_graph.adapters import FAMILIES
from tests.reference import close

OPTIONS: dict[str, dict[str, Any]] = {
    "lora": {},
    "dora": {},
    "dylora": {"active_ranks": [1, 2]},
    "lokr": {},
    "lora_drop": {"dropout_rate": 0.25},
}

pytestmark = pytest.mark.filterwarnings("ignore:.*Kronecker")


def network(dtype: str = "float32") -> lg.Sequential:
    """A convolution, a recurrence over what it gives and two dense layers."""
    return lg.Sequential(
        [
            lg.ConvolutionalLayer(3, 6, (3,), padding=1, activation="relu", dtype=dtype, rng=0),
            lg.LSTMLayer(8, 8, return_sequences=False, dtype=dtype, rng=1),
            lg.DenseLayer(8, 6, "tanh", dtype=dtype, rng=2),
            lg.FullyConnectedLayer(6, 4, dtype=dtype, rng=3),
        ],
        input_shape=(3, 8),
    )


def imported(tmp_path: Path) -> lg.Layer:
    lg.export_onnx(network(), tmp_path / "base.onnx")
    return lg.load_onnx(tmp_path / "base.onnx")


def filled(model: lg.AdaptedModel, rng: np.random.Generator) -> lg.AdaptedModel:
    for name in model.get_parameter_names():
        if name.endswith((".A", ".B")):
            model.set_parameter(name, rng.normal(0, 0.3, model.get_parameter_shape(name)))
    return model


def test_targets_are_listed_with_their_shapes(tmp_path: Path) -> None:
    listed = [(t.name, t.kind, t.shape) for t in lg.adapt(network(), rank=2).targets()]
    assert listed == [
        ("0.weight", "convolution", (6, 3, 3)),
        ("1.weight_ih", "recurrent", (32, 8)),
        ("1.weight_hh", "recurrent", (32, 8)),
        ("2.weight", "linear", (8, 6)),
        ("3.weight", "linear", (4, 6)),
    ]
    read = [t.name for t in lg.adapt(imported(tmp_path), rank=2).targets()]
    assert read == [name for name, _, _ in listed]


@pytest.mark.parametrize(
    ("targets", "exclude", "chosen"),
    [
        ("all-linear", (), ["2.weight", "3.weight"]),
        ("all-linear", "3", ["2.weight"]),
        ("*weight*", ("1.*", "nothing like this"), ["0.weight", "2.weight", "3.weight"]),
        ("2", (), ["2.weight"]),
        ("weight_hh", (), ["1.weight_hh"]),
        (["3.weight", "0"], (), ["0.weight", "3.weight"]),
        (re.compile(r"[12]\.weight.*"), (), ["1.weight_ih", "1.weight_hh", "2.weight"]),
        (lambda target: target.shape[0] == 32, "*hh", ["1.weight_ih"]),
    ],
)
def test_which_weights_a_pattern_chooses(targets: Any, exclude: Any, chosen: list[str]) -> None:
    model = lg.adapt(network(), targets=targets, exclude=exclude, rank=2)
    (adapter,) = model.adapters.values()
    assert [site.label for site in adapter._sites.values()] == chosen


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"targets": "quary"}, ValueError, "targets: nothing matches 'quary'; nearest: "),
        ({"targets": ["2", "9.*"]}, ValueError, r"nothing matches '9\.\*'"),
        ({"targets": "2", "exclude": "*"}, ValueError, "exclude leaves nothing"),
        ({"targets": 3}, TypeError, "targets"),
        ({"targets": []}, ValueError, "targets must have at least one name"),
        ({"adapter": "dore"}, ValueError, "adapter must be one of"),
        ({"rank": 0}, ValueError, "rank must be"),
        ({"rank": 40}, ValueError, r"rank must be at least 1 and less than 6 for 2\.weight \["),
        ({"rank_pattern": {"2": 99}}, ValueError, "less than 6"),
        ({"rank_pattern": ["2"]}, TypeError, "rank_pattern must be a dict from patterns to numbers, got"),
        ({"unfreeze": 3}, TypeError, "unfreeze must be names or globs, got 3"),
        ({"unfreeze": ["*", 3]}, TypeError, "unfreeze must be names or globs, got"),
        ({"rank_pattern": {"2": True}}, TypeError, "rank_pattern must be an int"),
        ({"alpha_pattern": {"2": 0}}, ValueError, "alpha"),
        ({"unfreeze": "head.*"}, ValueError, r"unfreeze: no parameter matches 'head\.\*'; there are 0\.weight"),
        ({"dropout_rate": 0.5}, TypeError, "adapter='lora' has no option 'dropout_rate'; it has rank_scaling, wide, "),
        ({"adapter": "dylora"}, TypeError, "adapter='dylora' needs the option 'active_ranks'"),
        ({"adapter": "dylora", "active_ranks": [1], "rank_pattern": {"2": 1}}, ValueError, "one max_rank"),
    ],
)
def test_arguments_that_cannot_be(arguments: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        lg.adapt(network(), **{"rank": 2, **arguments})


def test_a_model_must_be_a_layer() -> None:
    with pytest.raises(TypeError, match="model must be a Layer"):
        lg.adapt("model.onnx")  # type: ignore[arg-type]


def test_a_model_is_adapted_once() -> None:
    with pytest.raises(ValueError, match=r"model has adapters already: model\.add_adapter"):
        lg.adapt(lg.adapt(network(), rank=2), rank=2)


def test_the_nearest_names_are_named() -> None:
    with pytest.raises(ValueError, match=r"nearest: .*1\.weight_hh"):
        lg.adapt(network(), targets="1.weigth_hh")


def test_weights_without_a_name_are_found_by_their_module() -> None:
    nodes = [
        onnx.helper.make_node("MatMul", ["x", "onnx::MatMul_7"], ["h"], name="/encoder/layer.0/query/MatMul"),
        onnx.helper.make_node("MatMul", ["h", "val_3"], ["y"], name="node_MatMul_1"),
    ]
    nodes[1].metadata_props.add(key="pkg.torch.onnx.name_scopes", value="['', 'encoder.layer.1.value', 'linear']")
    ports = [onnx.helper.make_tensor_value_info(name, 1, ["batch", 4]) for name in "xy"]
    weights = [onnx.numpy_helper.from_array(np.eye(4, dtype=np.float32), n) for n in ("onnx::MatMul_7", "val_3")]
    opsets = [onnx.helper.make_opsetid("", 21)]
    graph = onnx.helper.make_graph(nodes, "model", ports[:1], ports[1:], weights)
    base = lg.load_onnx(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10))
    for pattern, weight in (("query", "onnx::MatMul_7"), ("encoder.layer.1.*", "val_3"), ("val_3", "val_3")):
        model = lg.adapt(base, targets=pattern, rank=2)
        assert [site.label for site in model.adapters["default"].sites] == [weight]


def test_ranks_and_alphas_by_pattern() -> None:
    model = lg.adapt(
        network(), targets="*", rank=2, alpha=4, rank_pattern={"0": 3, "1.*": 1}, alpha_pattern={"weight_hh": 7}
    )
    found = {name: (b.rank, b.alpha) for name, b in model.adapters["default"].branches.items()}  # type: ignore[attr-defined]
    assert found == {
        "lora_0_weight": (3, 4),
        "lora_1_weight_ih": (1, 4),
        "lora_1_weight_hh": (1, 7),
        "lora_2_weight": (2, 4),
        "lora_3_weight": (2, 4),
    }
    assert model.get_parameter_shape("default.lora_0_weight.A") == (3, 3, 3)


@pytest.mark.parametrize("family", OPTIONS)
def test_every_family_starts_as_the_base_trains_merges_and_leaves_it_alone(
    family: str, tmp_path: Path, rng: np.random.Generator
) -> None:
    base = imported(tmp_path)
    before = {name: array.tobytes() for name, array in base.state.items()}
    x = rng.normal(size=(24, 3, 8)).astype(np.float32)
    plain = base.forward(x)
    target = plain + rng.normal(size=plain.shape)
    model = lg.adapt(base, family, targets="*", rank=2, rng=0, **OPTIONS[family])
    np.testing.assert_array_equal(model.eval().forward(x), plain)
    losses = lg.fit(model.train(), (x, target), optimizer=lg.Adam(2e-2), epochs=12, batch_size=8).epoch_losses
    assert losses[-1] < losses[0]
    y = model.eval().forward(x)
    assert np.abs(y - plain).max() > 1e-2
    merged = model.merge_to_base()
    assert type(merged) is type(base)
    close(merged.forward(x), y, 1e-4)
    for form in ("parallel", "merged"):
        lg.export_onnx(model, tmp_path / "out.onnx", form=form)
        close(lg.Session(tmp_path / "out.onnx").run(x), y, 1e-4)
        close(lg.load_onnx(tmp_path / "out.onnx").forward(x), y, 1e-4)
    assert {name: array.tobytes() for name, array in base.state.items()} == before
    assert {name: model.state[f"base.{name}"].tobytes() for name in before} == before


def test_every_family_is_tested() -> None:
    assert set(OPTIONS) == set(FAMILIES)


@pytest.mark.parametrize("family", OPTIONS)
def test_an_embedding_is_adapted_by_looking_up_rows(family: str, tmp_path: Path, rng: np.random.Generator) -> None:
    base = lg.Sequential(
        [lg.EmbeddingLayer(11, 6, rng=0), lg.LSTMLayer(6, 5, False, rng=1), lg.DenseLayer(5, 3, rng=2)]
    )
    lg.export_onnx(base, tmp_path / "base.onnx")
    model = lg.adapt(lg.load_onnx(tmp_path / "base.onnx"), family, targets="0", rank=2, rng=0, **OPTIONS[family])
    (target, *_) = model.targets()
    assert (target.name, target.kind, target.shape) == ("0.weight", "embedding", (11, 6))
    ids = rng.integers(0, 11, (64, 3))
    labels = ids[:, -1] % 3
    np.testing.assert_array_equal(model.eval().forward(ids), base.eval().forward(ids))
    losses = lg.fit(model, (ids, labels), loss="cross_entropy", optimizer=lg.Adam(5e-2), epochs=20).epoch_losses
    assert losses[-1] < 0.95 * losses[0]
    y, merged = model.eval().forward(ids), model.merge_to_base()
    close(merged.forward(ids), y, 1e-5)
    changed = [name for name, array in merged.state.items() if array.tobytes() != base.state[name].tobytes()]
    assert changed == ["0.weight"]
    for form in ("parallel", "merged"):
        lg.export_onnx(model, tmp_path / "out.onnx", form=form)
        close(lg.Session(tmp_path / "out.onnx").run(ids), y, 1e-5)


def test_only_what_is_unfrozen_trains(rng: np.random.Generator) -> None:
    base = network()
    model = lg.adapt(base, targets="2", rank=2, unfreeze=["3.*", "0.bias"], rng=0)
    trainable = ["base.0.bias", "base.3.weight", "base.3.bias", "default.lora.A", "default.lora.B"]
    assert list(model.trainable_parameters()) == trainable
    before = model.state
    x = rng.normal(size=(16, 3, 8)).astype(np.float32)
    lg.fit(model, (x, rng.normal(size=(16, 4))), optimizer=lg.Adam(1e-2), epochs=3)
    changed = [name for name, array in model.state.items() if array.tobytes() != before[name].tobytes()]
    assert changed == trainable
    assert all(slot.trainable for slot, _ in base.slots().values())


def test_merging_and_taking_apart_again(rng: np.random.Generator) -> None:
    base = network("float64")
    model = filled(lg.adapt(base, targets="*", rank=2, rng=0), rng)
    x = rng.normal(size=(5, 3, 8))
    plain, y, before = base.forward(x), model.eval().forward(x), model.state
    model.merge()
    assert model.is_merged
    close(model.forward(x), y, 1e-12)
    close(model.base.forward(x), y, 1e-12)
    with pytest.raises(RuntimeError, match="merged already"):
        model.merge()
    for refused in (lambda: model.add_adapter("more", rank=1), lambda: model.set_active()):
        with pytest.raises(RuntimeError, match="unmerge"):
            refused()
    model.unmerge()
    assert {n: a.tobytes() for n, a in model.state.items()} == {n: a.tobytes() for n, a in before.items()}
    np.testing.assert_array_equal(base.forward(x), plain)
    with pytest.raises(RuntimeError, match="not merged"):
        model.unmerge()


def test_several_adapters_on_one_base(rng: np.random.Generator) -> None:
    base = network("float64")
    model = lg.adapt(base, targets="all-linear", rank=2, rng=0)
    model.add_adapter("second", "lokr", targets="2", rank=2, rng=1)
    filled(model, rng)
    model.eval()
    x = rng.normal(size=(5, 3, 8))
    p, h = model.state, base[1].forward(base[0].forward(x))  # type: ignore[index]

    def truth(*names: str) -> Any:
        first = p["base.2.weight"].copy()
        second = p["base.3.weight"].T.copy()
        if "default" in names:
            first += p["default.lora_2_weight.A"] @ p["default.lora_2_weight.B"]
            second += p["default.lora_3_weight.A"] @ p["default.lora_3_weight.B"]
        if "second" in names:
            first += np.kron(p["second.lokr.A"], p["second.lokr.B"]).T
        return np.tanh(h @ first + p["base.2.bias"]) @ second + p["base.3.bias"]

    for names in (("default", "second"), ("second",), ("default",), ()):
        model.set_active(*names)
        assert model.active_adapters == names
        close(model.forward(x), truth(*names), 1e-12)
        close(model.merge_to_base().forward(x), truth(*names), 1e-12)
    model.set_active("default", "second")
    with model.disable_adapters():
        close(model.forward(x), truth(), 1e-12)
    close(model.forward(x), truth("default", "second"), 1e-12)
    with pytest.raises(ValueError, match=r"name must be one of"):
        model.set_active("third")
    with pytest.raises(ValueError, match="already"):
        model.add_adapter("second", rank=1)
    with pytest.raises(ValueError, match="already"):
        model.add_adapter("base", rank=1)


def test_adapters_that_are_merged_do_not_train() -> None:
    model = lg.adapt(network(), rank=2, rng=0)
    model.merge()
    with pytest.raises(ValueError, match=r"nothing to train: .*adapters that are merged, or not active"):
        lg.fit(model, (np.ones((4, 3, 8)), np.ones((4, 4))))


def test_what_trains_is_counted(capsys: pytest.CaptureFixture[str]) -> None:
    lg.adapt(network(), targets="2", rank=2).print_trainable_parameters()
    total = sum(array.size for array in network().state.values())
    assert capsys.readouterr().out == f"28 of {total + 28:,} parameters train ({28 / (total + 28):.4%})\n"


@pytest.mark.parametrize("family", ["lora", "dylora", "lora_drop"])
def test_an_embedding_of_sequences_of_one_length(family: str) -> None:
    class Rows(lg.Layer):
        any_rank = False

        def __init__(self) -> None:
            super().__init__(input_shape=(5,), output_shape=(5, 4))
            self.add_parameter("table", np.ones((9, 4)))

        @property
        def inputs(self) -> dict[str, lg.TensorType]:
            return {"x": lg.tensor("int64", ("batch", 5))}

        def build(self, ctx: lg.Context, x: lg.Value) -> lg.Value:
            return lg.ops.gather(ctx.param("table"), x)

    options = {"dylora": {"active_ranks": [1, 2]}, "lora_drop": {"dropout_rate": 0.1}}.get(family, {})
    model = lg.adapt(Rows(), family, targets="table", rank=2, rng=0, **options)
    assert model.eval().forward(np.zeros((3, 5), np.int64)).shape == (3, 5, 4)
    assert lg.Session(lg.export_onnx(model)).run(np.zeros((3, 5), np.int64)).shape == (3, 5, 4)


class Residual(lg.Layer):
    """h + tanh(h W), many times over: there are 2ⁿ paths from the output to the input."""

    def __init__(self, depth: int) -> None:
        super().__init__(input_shape=(4,), output_shape=(4,))
        self.layers = [self.add_child(f"l{i}", lg.DenseLayer(4, 4, rng=i)) for i in range(depth)]

    def build(self, ctx: lg.Context, x: lg.Value) -> lg.Value:
        for layer in self.layers:
            x = x + lg.ops.tanh(ctx.call(layer, x))
        return x


def test_merging_follows_each_path_of_a_residual_network_once(rng: np.random.Generator) -> None:
    model = filled(lg.adapt(Residual(48), targets="l0", rank=2, rng=0), rng).eval()
    x = rng.normal(size=(3, 4)).astype(np.float32)
    np.testing.assert_allclose(model.merge_to_base().eval().forward(x), model.forward(x), atol=1e-4)
