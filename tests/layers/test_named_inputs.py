"""Layers with several inputs and outputs: dicts of arrays by name, in and out, forward, backward and in a session."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import lora_graph as lg

Array = np.ndarray[Any, Any]
TYPES = {
    "ids": (TensorProto.INT64, ["n", "t"]),
    "mask": (TensorProto.BOOL, ["n", "t"]),
    "gain": (TensorProto.FLOAT, []),
}


def encoder(seed: int = 0) -> onnx.ModelProto:
    """hidden = gain · (table[ids] · mask); logits = mean over t of hidden, times w; best = argmax."""
    rng = np.random.default_rng(seed)
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["rows"]),
        helper.make_node("Cast", ["mask"], ["kept"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["kept", "last"], ["column"]),
        helper.make_node("Mul", ["rows", "column"], ["masked"]),
        helper.make_node("Mul", ["masked", "gain"], ["hidden"]),
        helper.make_node("ReduceMean", ["hidden"], ["pooled"], axes=[1], keepdims=0),
        helper.make_node("MatMul", ["pooled", "w"], ["logits"]),
        helper.make_node("ArgMax", ["logits"], ["best"], axis=1, keepdims=0),
    ]
    arrays = {
        "table": rng.normal(size=(7, 4)).astype(np.float32),
        "w": rng.normal(size=(4, 3)).astype(np.float32),
        "last": np.asarray([-1]),
    }
    outputs = {
        "hidden": (TensorProto.FLOAT, ["n", "t", 4]),
        "logits": (TensorProto.FLOAT, ["n", 3]),
        "best": (TensorProto.INT64, ["n"]),
    }
    graph = helper.make_graph(
        nodes,
        "encoder",
        [helper.make_tensor_value_info(name, *kind) for name, kind in TYPES.items()],
        [helper.make_tensor_value_info(name, *kind) for name, kind in outputs.items()],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def feeds(n: int = 3, t: int = 5) -> dict[str, Array]:
    rng = np.random.default_rng(4)
    ids = rng.integers(0, 7, (n, t))
    return {"ids": ids, "mask": rng.random((n, t)) < 0.7, "gain": np.asarray(1.5, np.float32)}


def expected(model: lg.Layer, x: dict[str, Array]) -> dict[str, Array]:
    table, w = model.get_parameter("table"), model.get_parameter("w")
    hidden = table[x["ids"]] * x["mask"][..., None] * x["gain"]
    logits = hidden.mean(axis=1) @ w
    return {"hidden": hidden, "logits": logits, "best": logits.argmax(axis=1)}


def same(actual: dict[str, Array], wanted: dict[str, Array]) -> None:
    assert list(actual) == list(wanted)
    for name, array in wanted.items():
        np.testing.assert_allclose(actual[name], array, rtol=1e-5, atol=1e-6)


def test_names_and_types_are_those_of_the_file() -> None:
    model = lg.load_onnx(encoder())
    assert {name: str(kind) for name, kind in model.inputs.items()} == {
        "ids": "int64[n, t]",
        "mask": "bool[n, t]",
        "gain": "float32[]",
    }
    assert {name: str(kind) for name, kind in model.outputs.items()} == {
        "hidden": "float32[n, t, 4]",
        "logits": "float32[n, 3]",
        "best": "int64[n]",
    }
    assert model.dtype == np.float32
    assert repr(model) == "<encoder: ids [t], mask [t], gain [] -> hidden [t, 4], logits [3], best []>"
    assert model.get_diagnostics()["input_shape"] == "ids [t], mask [t], gain []"
    for attribute in ("input_shape", "output_shape", "input_dtype"):
        with pytest.raises(ValueError, match=r"encoder has the (inputs ids, mask, gain|outputs hidden, logits, best)"):
            getattr(model, attribute)


def test_several_outputs_come_back_as_a_dict() -> None:
    model, x = lg.load_onnx(encoder()), feeds()
    wanted = expected(model, x)
    same(model.forward(x), wanted)
    same(lg.compile(model)(x), wanted)
    same(lg.Session(model).run(x), wanted)
    assert model.forward({**x, "ids": x["ids"].astype(np.int32)})["best"].dtype == np.int64


def test_an_untouched_import_is_exported_with_its_interface() -> None:
    original = encoder()
    exported = lg.export_onnx(lg.load_onnx(original))
    assert list(exported.graph.input) == list(original.graph.input)
    assert list(exported.graph.output) == list(original.graph.output)
    same(lg.Session(exported).run(feeds()), lg.Session(original).run(feeds()))
    again = lg.load_onnx(exported)
    assert again.to_graph() == lg.load_onnx(lg.export_onnx(again)).to_graph()


def test_shapes_may_be_fixed_by_name() -> None:
    model = lg.load_onnx(encoder())
    exported = lg.export_onnx(model, input_shape={"ids": ("n", 5), "mask": ("n", 5), "gain": ()})
    assert [d.dim_param or d.dim_value for d in exported.graph.output[0].type.tensor_type.shape.dim] == ["n", 5, 4]
    same(lg.Session(exported).run(feeds()), expected(model, feeds()))
    with pytest.raises(ValueError, match="shape of an input 'gain' is missing"):
        model.to_graph({"ids": ("n", 5), "mask": ("n", 5)})
    with pytest.raises(ValueError, match=r"encoder takes 'mask' as bool\[n, t\], got bool\[n, 6\]"):
        model.to_graph({"ids": ("n", 5), "mask": ("n", 6), "gain": ()})


def test_gradients_by_name() -> None:
    model, x = lg.load_onnx(encoder()), feeds()
    outputs = model.forward(x)
    g = {"hidden": np.ones_like(outputs["hidden"]), "logits": np.full_like(outputs["logits"], 0.5)}
    w = model.get_parameter("w")
    for given in (g, {"logits": g["logits"]}, {"hidden": g["hidden"]}):
        found = model.backward(given)
        assert list(found) == ["gain"]
        of_hidden = given.get("hidden", 0) + np.broadcast_to(
            (given["logits"] @ w.T / 5)[:, None] if "logits" in given else 0, outputs["hidden"].shape
        )
        np.testing.assert_allclose(found["gain"], (of_hidden * outputs["hidden"] / 1.5).sum(), rtol=1e-5)
        table = np.zeros((7, 4))
        np.add.at(table, x["ids"], of_hidden * x["mask"][..., None] * 1.5)
        of_w = outputs["hidden"].mean(axis=1).T @ given["logits"] if "logits" in given else np.zeros_like(w)
        gradients = model.get_parameter_gradients()
        np.testing.assert_allclose(gradients, np.concatenate([table.ravel(), of_w.ravel()]), rtol=1e-4, atol=1e-5)


FAULTS: list[tuple[Any, type[Exception], str]] = [
    (np.zeros((3, 5), np.int64), ValueError, "a dict with one input for each of ids, mask, gain"),
    ({"ids": feeds()["ids"]}, ValueError, "input 'mask' is missing; expected ids, mask, gain"),
    ({**feeds(), "types": np.zeros(3)}, ValueError, "unknown input 'types'"),
    ({**feeds(), "ids": np.zeros((3, 5))}, TypeError, r"x 'ids' must hold integers \(int64\), got float64"),
    ({**feeds(), "mask": np.zeros((3, 5))}, TypeError, "x 'mask' must hold bools, got float64"),
    (
        {**feeds(), "ids": np.zeros((3, 4), int)},
        ValueError,
        r"'mask' must be .* with n = 3, t = 4, got shape \(3, 5\)",
    ),
    ({**feeds(), "ids": np.zeros(5, int)}, ValueError, r"x 'ids' must be int64\[n, t\], got shape \(5,\)"),
    ({**feeds(), "ids": np.full((3, 5), 2**63, np.uint64)}, ValueError, "x 'ids' must hold integers that fit int64"),
]


@pytest.mark.parametrize(("x", "kind", "message"), FAULTS)
def test_inputs_that_do_not_fit(x: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        lg.load_onnx(encoder()).forward(x)


def test_output_gradients_that_do_not_fit() -> None:
    model = lg.load_onnx(encoder())
    y = model.forward(feeds())
    for gradient, kind, message in (
        ({"best": y["best"]}, TypeError, r"output_gradient 'best': only floats have a gradient"),
        ({"logits": y["hidden"]}, ValueError, r"output_gradient 'logits' must have the shape of the output \(3, 3\)"),
        ({"scores": y["logits"]}, ValueError, "unknown output gradient 'scores'"),
        (y["logits"], ValueError, "a dict with one output gradient for each of hidden, logits, best"),
    ):
        with pytest.raises(kind, match=message):
            model.backward(gradient)


def test_an_adapter_goes_inside_and_merges() -> None:
    rng = np.random.default_rng(0)
    model, x = lg.load_onnx(encoder()), feeds()
    adapter = lg.StandardLoRAAdapter(model, 2, site="weight", rng=rng).eval()
    same(adapter.forward(x), expected(model, x))
    adapter.set_parameters(rng.normal(size=adapter.parameter_count))
    changed = lg.load_onnx(encoder())
    for name, branch in adapter.branches.items():
        label = name.removeprefix("lora_")
        change = branch.merge_weights()  # type: ignore[attr-defined]
        changed.set_parameter(label, model.get_parameter(label) + change)
    assert list(adapter.branches) == ["lora_table", "lora_w"]
    wanted = expected(changed, x)
    same(adapter.forward(x), wanted)
    same(adapter.merge_to_original_layer().forward(x), wanted)
    for form in ("parallel", "merged"):
        exported = lg.export_onnx(adapter, form=form)
        assert [item.name for item in exported.graph.input] == list(TYPES)
        same(lg.Session(exported).run(x), wanted)
    with pytest.raises(ValueError, match="site='output' needs a layer with one input and one output"):
        lg.StandardLoRAAdapter(model, 2)


class Distance(lg.Layer):
    """|a - b|² and |a - b| for a, b of ``size`` features, with any number of batch axes."""

    def __init__(self, size: int):
        super().__init__(input_shape={"a": (size,), "b": (size,)}, output_shape={"square": (), "root": ()})

    def build(self, ctx: lg.Context, x: dict[str, lg.Value]) -> dict[str, lg.Value]:
        difference = x["a"] - x["b"]
        square = (difference * difference).sum(axis=-1)
        return {"square": square, "root": square.sqrt()}


class Triangle(lg.Layer):
    """How much longer the way over b is."""

    def __init__(self, size: int):
        super().__init__(input_shape={"a": (size,), "b": (size,), "c": (size,)}, output_shape=())
        self.add_child("distance", Distance(size))

    def build(self, ctx: lg.Context, x: dict[str, lg.Value]) -> lg.Value:
        pairs = [("a", "b"), ("b", "c"), ("a", "c")]
        ab, bc, ac = (ctx.call(self.children["distance"], {"a": x[p], "b": x[q]})["root"] for p, q in pairs)
        result: lg.Value = ab + bc - ac
        return result


@pytest.mark.parametrize("lead", [(), (4,), (2, 3)])
def test_a_layer_of_ones_own_may_have_several(lead: tuple[int, ...]) -> None:
    rng = np.random.default_rng(1)
    x = {name: rng.normal(size=(*lead, 3)).astype(np.float32) for name in "abc"}
    norm = np.linalg.norm
    wanted = norm(x["a"] - x["b"], axis=-1) + norm(x["b"] - x["c"], axis=-1) - norm(x["a"] - x["c"], axis=-1)
    layer = Triangle(3)
    np.testing.assert_allclose(layer.forward(x), wanted, rtol=1e-5)
    np.testing.assert_allclose(lg.compile(layer)(x), wanted, rtol=1e-5)
    found = layer.backward(np.ones(lead, np.float32))
    unit = (x["a"] - x["b"]) / norm(x["a"] - x["b"], axis=-1, keepdims=True)
    other = (x["c"] - x["b"]) / norm(x["c"] - x["b"], axis=-1, keepdims=True)
    np.testing.assert_allclose(found["b"], -unit - other, rtol=1e-4, atol=1e-5)


def test_a_layer_that_gives_something_else_than_it_says() -> None:
    class Wrong(Distance):
        def build(self, ctx: lg.Context, x: dict[str, lg.Value]) -> dict[str, lg.Value]:
            return {"square": x["a"]}

    with pytest.raises(ValueError, match="output 'root' is missing; expected square, root"):
        Wrong(3).to_graph()
