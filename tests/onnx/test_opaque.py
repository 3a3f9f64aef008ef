"""Nodes that the IR has no op for: exported as they were, evaluated by ONNX Runtime, without a derivative."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import lora_graph as lg
from lora_graph.autodiff import gradients
from lora_graph.errors import LoadError
from lora_graph.ir import Graph, input, parse  # noqa: A004
from lora_graph.onnx import lower, read_model

Array = np.ndarray[Any, Any]
FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL


def info(name: str, kind: int = FLOAT, shape: list[Any] | None = None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def model(
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    arrays: dict[str, Array],
    **domains: int,
) -> onnx.ModelProto:
    initializers = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    graph = helper.make_graph(nodes, "foreign", inputs, outputs, initializers)
    imports = [helper.make_opsetid("", 17), *(helper.make_opsetid(f"com.{n}", v) for n, v in domains.items())]
    return helper.make_model(graph, opset_imports=imports, ir_version=8)


W = np.asarray([[1.0, -2.0], [0.5, 3.0], [2.0, 1.0]], np.float32)


def branch(op_type: str, name: str) -> onnx.GraphProto:
    """op(h, w), both captured, then doubled by a constant of its own."""
    nodes = [helper.make_node(op_type, ["h", "w"], ["t"]), helper.make_node("Mul", ["t", "two"], ["t2"])]
    two = numpy_helper.from_array(np.asarray(2, np.float32), "two")
    return helper.make_graph(nodes, name, [], [info("t2", FLOAT, ["n", 2])], [two])


def conditional() -> onnx.ModelProto:
    """y = 2 (h + w) or 2 (h - w), where h = x W and the last row of it is w."""
    nodes = [
        helper.make_node("MatMul", ["x", "W"], ["h"]),
        helper.make_node("ReduceSum", ["x"], ["s"], keepdims=0),
        helper.make_node("Greater", ["s", "zero"], ["positive"]),
        helper.make_node(
            "If", ["positive"], ["y"], name="choice", then_branch=branch("Add", "a"), else_branch=branch("Sub", "b")
        ),
        helper.make_node("Relu", ["y"], ["z"]),
    ]
    arrays = {"W": W, "w": np.asarray([0.25, -1], np.float32), "zero": np.asarray(0, np.float32)}
    return model(nodes, [info("x", FLOAT, ["n", 3])], [info("z", FLOAT, ["n", 2])], arrays)


def loop() -> onnx.ModelProto:
    """c = x · 1.5ᵏ after k rounds, and all of them stacked."""
    body = helper.make_graph(
        [
            helper.make_node("Mul", ["c_in", "factor"], ["c_out"]),
            helper.make_node("Identity", ["going"], ["still"]),
            helper.make_node("Identity", ["c_out"], ["each"]),
        ],
        "round",
        [info("i", INT64, []), info("going", BOOL, []), info("c_in", FLOAT, ["n", 3])],
        [info("still", BOOL, []), info("c_out", FLOAT, ["n", 3]), info("each", FLOAT, ["n", 3])],
    )
    nodes = [helper.make_node("Loop", ["rounds", "", "x"], ["last", "all"], name="rounds of it", body=body)]
    arrays = {"rounds": np.asarray(4), "factor": np.asarray(1.5, np.float32)}
    outputs = [info("last", FLOAT, ["n", 3]), info("all", FLOAT, [4, "n", 3])]
    return model(nodes, [info("x", FLOAT, ["n", 3])], outputs, arrays)


def scan() -> onnx.ModelProto:
    body = helper.make_graph(
        [helper.make_node("Add", ["h", "row"], ["h2"]), helper.make_node("Tanh", ["h2"], ["out"])],
        "step",
        [info("h", FLOAT, [3]), info("row", FLOAT, [3])],
        [info("h2", FLOAT, [3]), info("out", FLOAT, [3])],
    )
    nodes = [helper.make_node("Scan", ["h0", "x"], ["h", "ys"], num_scan_inputs=1, body=body)]
    outputs = [info("ys", FLOAT, ["n", 3])]
    return model(nodes, [info("x", FLOAT, ["n", 3])], outputs, {"h0": np.zeros(3, np.float32)})


def unknown_op() -> onnx.ModelProto:
    """An op of ONNX that the IR has no word for, with two results of which the second is used alone."""
    nodes = [helper.make_node("Unique", ["x"], ["u", "", "back"], sorted=1), helper.make_node("Neg", ["back"], ["y"])]
    return model(nodes, [info("x", FLOAT, [6])], [info("y", INT64, [6])], {})


def foreign_domain() -> onnx.ModelProto:
    """An op of ONNX Runtime's own, of which only the file knows the type."""
    nodes = [
        helper.make_node("FusedMatMul", ["x", "W"], ["h"], domain="com.microsoft", alpha=0.5),
        helper.make_node("Tanh", ["h"], ["y"]),
    ]
    made = model(nodes, [info("x", FLOAT, ["n", 3])], [info("y", FLOAT, ["n", 2])], {"W": W}, microsoft=1)
    made.graph.value_info.append(info("h", FLOAT, ["n", 2]))
    return made


X = np.random.default_rng(2).normal(size=(4, 3)).astype(np.float32)
h = X @ W
MODELS: dict[str, tuple[onnx.ModelProto, Array, dict[str, Array]]] = {
    "If, one way": (conditional(), np.abs(X), {"z": np.maximum(2 * (np.abs(X) @ W + [0.25, -1]), 0)}),
    "If, the other way": (conditional(), -np.abs(X), {"z": np.maximum(2 * (-np.abs(X) @ W - [0.25, -1]), 0)}),
    "Loop": (loop(), X, {"last": X * 1.5**4, "all": np.stack([X * 1.5**k for k in (1, 2, 3, 4)])}),
    "Scan": (scan(), X, {"ys": np.tanh(np.cumsum(X, axis=0))}),
    "a domain of others": (foreign_domain(), X, {"y": np.tanh(0.5 * h)}),
}
rows = pytest.mark.parametrize("what", MODELS)


def same(found: Any, wanted: dict[str, Array]) -> None:
    results = found if isinstance(found, dict) else {next(iter(wanted)): found}
    assert list(results) == list(wanted)
    for name, array in wanted.items():
        np.testing.assert_allclose(results[name], array, rtol=1e-5, atol=1e-6)


@rows
def test_evaluation_is_that_of_onnx_runtime(what: str) -> None:
    proto, x, wanted = MODELS[what]
    layer = lg.load_onnx(proto)
    assert "Opaque" in layer.to_graph().op_counts()
    same(layer.forward(x), wanted)
    same(lg.compile(layer)(x), wanted)


@rows
@pytest.mark.parametrize("opset", [21, 26])
def test_what_is_exported_is_the_node_that_was_read(what: str, opset: int) -> None:
    proto, x, wanted = MODELS[what]
    layer = lg.load_onnx(proto)
    exported = lg.export_onnx(layer, opset=opset)
    assert list(exported.graph.input) == list(proto.graph.input)
    same(lg.Session(exported).run(x), wanted)
    kinds = [(node.domain, node.op_type) for node in proto.graph.node]
    assert set(kinds) <= {(node.domain, node.op_type) for node in exported.graph.node} | {("", "ReduceSum")}


@rows
def test_round_trips(what: str) -> None:
    read = read_model(MODELS[what][0])
    assert parse(str(read.graph)) == read.graph
    assert pickle.loads(pickle.dumps(read.graph)) == read.graph
    again = read_model(lower(read.graph, read.state))
    once_more = read_model(lower(again.graph, again.state))
    assert once_more.graph == again.graph


def test_results_may_be_left_out() -> None:
    layer = lg.load_onnx(unknown_op())
    x = np.asarray([3, 1, 2, 3, 1, 1], np.float32)
    np.testing.assert_array_equal(lg.Session(lg.export_onnx(layer)).run(x), -np.unique(x, return_inverse=True)[1])


def test_a_size_known_only_when_it_runs_is_named_in_the_error() -> None:
    layer = lg.load_onnx(unknown_op())
    with pytest.raises(ValueError, match="the size u_0 of a result of Unique is not known before it runs"):
        layer.forward(np.zeros(6, np.float32))


def test_there_is_no_derivative_through_one_but_there_is_one_beside_it() -> None:
    layer = lg.load_onnx(conditional())
    y = layer.forward(X)
    with pytest.raises(ValueError, match="If has no derivative"):
        layer.backward(np.ones_like(y))
    nodes = [
        helper.make_node("MatMul", ["x", "W"], ["h"]),
        helper.make_node("Unique", ["ids"], ["u", "", "back"]),
        helper.make_node("Cast", ["back"], ["f"], to=FLOAT),
        helper.make_node("Unsqueeze", ["f", "one"], ["column"]),
        helper.make_node("Mul", ["h", "column"], ["y"]),
    ]
    inputs = [info("x", FLOAT, [4, 3]), info("ids", INT64, [4])]
    beside = lg.load_onnx(model(nodes, inputs, [info("y", FLOAT, [4, 2])], {"W": W, "one": np.asarray([1])}))
    graph = beside.to_graph()
    assert "Opaque" in graph.op_counts()
    (found,) = gradients(graph.outputs["y"].sum(), [graph.parameters["W"]])
    assert str(found.type) == "float32[3, 2]"


def test_two_draws_never_become_one() -> None:
    def drawn(*nodes: onnx.NodeProto) -> onnx.ModelProto:
        return model(
            [*nodes, helper.make_node("Sub", ["a", "b"], ["d"]), helper.make_node("Mul", ["d", "x"], ["y"])],
            [info("x", FLOAT, ["n", 64])],
            [info("y", FLOAT, ["n", 64])],
            {"like": np.zeros((1, 64), np.float32)},
        )

    random = [helper.make_node("RandomNormalLike", ["like"], [name]) for name in "ab"]
    layer = lg.load_onnx(drawn(*random))
    assert layer.to_graph().op_counts()["Opaque"] == 2
    x = np.ones((2, 64), np.float32)
    assert np.abs(layer.forward(x)).min() > 0
    first, second = lg.compile(layer), lg.compile(layer)
    assert not np.array_equal(first(x), first(x))
    assert not np.array_equal(first(x), second(x))
    exported = lg.export_onnx(layer)
    assert [node.op_type for node in exported.graph.node].count("RandomNormalLike") == 2
    assert lg.load_onnx(exported).to_graph() == lg.load_onnx(lg.export_onnx(lg.load_onnx(exported))).to_graph()


def test_an_adapter_stands_before_one() -> None:
    layer = lg.load_onnx(conditional())
    adapter = lg.StandardLoRAAdapter(layer, 1, site="weight", rng=0).eval()
    adapter.set_parameters(np.linspace(-1, 1, adapter.parameter_count))
    changed = W + adapter.lora_layer.merge_weights()  # type: ignore[union-attr]
    x = np.abs(X)
    wanted = np.maximum(2 * (x @ changed + [0.25, -1]), 0)
    np.testing.assert_allclose(adapter.forward(x), wanted, rtol=1e-4, atol=1e-5)
    for form in ("parallel", "merged"):
        found = lg.Session(lg.export_onnx(adapter, form=form)).run(x)
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


def test_a_node_that_would_mean_another_thing_is_not_written() -> None:
    body = helper.make_graph([helper.make_node("Squeeze", ["x"], ["t"], axes=[0])], "g", [], [info("t", FLOAT, [3])])
    node = helper.make_node("If", ["flag"], ["y"], then_branch=body, else_branch=body)
    made = model([node], [info("x", FLOAT, [1, 3])], [info("y", FLOAT, [3])], {"flag": np.asarray(True)})
    made.opset_import[0].version = 12
    layer = lg.load_onnx(made)
    np.testing.assert_array_equal(layer.forward(np.ones((1, 3))), np.ones(3))
    with pytest.raises(ValueError, match="If was written for opset 12, and its Squeeze may not mean the same at 21"):
        lg.export_onnx(layer)


def refused(node: onnx.NodeProto, **domains: int) -> onnx.ModelProto:
    return model([node], [info("x", FLOAT, ["n", 3])], [helper.make_empty_tensor_value_info("y")], {}, **domains)


lost = helper.make_graph([helper.make_node("Relu", ["nowhere"], ["t"])], "g", [], [info("t", FLOAT, [3])])
late = helper.make_graph(
    [helper.make_node("Relu", ["b"], ["a"]), helper.make_node("Relu", ["x"], ["b"])], "g", [], [info("a", FLOAT, [3])]
)
odd = helper.make_graph([helper.make_node("Frobnicate", ["x"], ["t"])], "g", [], [info("t", FLOAT, [3])])
REFUSED: dict[str, tuple[onnx.ModelProto, str]] = {
    "a domain nobody knows the types of": (
        refused(helper.make_node("Secret", ["x"], ["y"], domain="com.acme"), acme=1),
        r"com.acme::Secret\): this op is not supported, and the type of its result 'y' is not known",
    ),
    "a domain that is not imported": (
        refused(helper.make_node("Secret", ["x"], ["y"], domain="com.acme")),
        "its domain 'com.acme' is not imported by the model",
    ),
    "a name from nowhere": (
        refused(helper.make_node("If", ["x"], ["y"], then_branch=lost, else_branch=lost)),
        r"\(If\): 'nowhere' is used inside but not defined",
    ),
    "nodes inside out of order": (
        refused(helper.make_node("If", ["x"], ["y"], then_branch=late, else_branch=late)),
        r"\(If\): 'b' is used inside before it is computed there",
    ),
    "an unknown op inside": (
        refused(helper.make_node("If", ["x"], ["y"], then_branch=odd, else_branch=odd)),
        r"\(If\): the op 'Frobnicate' is not supported at opset 17",
    ),
    "an attribute that the op has not": (
        refused(helper.make_node("Unique", ["x"], ["y"], sorting=1)),
        r"\(Unique\): 'sorting' is not an attribute of Unique at opset 17",
    ),
    "a result that is no tensor": (
        refused(helper.make_node("SequenceConstruct", ["x"], ["y"])),
        r"the type of its result 'y' is not known",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_refused(what: str) -> None:
    proto, message = REFUSED[what]
    with pytest.raises(LoadError, match=message):
        lg.load_onnx(proto)


def test_data_of_a_subgraph_is_read_from_where_data_may_lie() -> None:
    proto = conditional()
    tensor = proto.graph.node[3].attribute[0].g.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")
    with pytest.raises(LoadError, match=r"node 'choice' \(If\).*tensor 'two'.*read from a path"):
        lg.load_onnx(proto)


def test_one_without_a_runner_says_what_to_import() -> None:
    from lora_graph.ir import Opaque, apply, tensor

    op = Opaque("Secret", b"", (tensor(np.float32, (3,)),), 21, "com.acme")
    value = apply(op, input("x", np.float32, (3,)))
    assert parse(str(Graph((value.operands[0],), {"y": value}))).outputs["y"] is value
    kept, Opaque.runner = Opaque.runner, None
    try:
        with pytest.raises(RuntimeError, match=r"Secret is run by ONNX Runtime: import lora_graph.onnx first"):
            op.evaluate(np.zeros(3, np.float32))
    finally:
        Opaque.runner = kept
