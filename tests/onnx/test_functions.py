"""Functions that a model defines, and models written as onnxscript functions."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import lora_graph as lg
from lora_graph.errors import LoadError
from lora_graph.onnx import read_model

DEFAULT, LOCAL = helper.make_opsetid("", 17), helper.make_opsetid("local", 1)


def function(name: str, nodes: list[onnx.NodeProto], opset: int = 17) -> onnx.FunctionProto:
    """y = nodes(x), where the last of ``nodes`` gives y."""
    imports = [helper.make_opsetid("", opset), LOCAL]
    return helper.make_function("local", name, ["x"], ["y"], nodes, imports)


def call(name: str, source: str, result: str) -> onnx.NodeProto:
    return helper.make_node(name, [source], [result], domain="local", name=f"{name} {result}")


def model(functions: list[onnx.FunctionProto], nodes: list[onnx.NodeProto]) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "calls",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])],
        [numpy_helper.from_array(np.asarray([1, 2, 3], np.float32), "w")],
    )
    return helper.make_model(graph, functions=functions, opset_imports=[DEFAULT, LOCAL], ir_version=8)


def chain(length: int, calls: int) -> list[onnx.FunctionProto]:
    """f0 = relu, and each further function calls the one before it ``calls`` times."""
    found = [function("f0", [helper.make_node("Relu", ["x"], ["y"])])]
    for level in range(1, length):
        names = ["x", *(f"t{i}" for i in range(calls - 1)), "y"]
        found.append(function(f"f{level}", [call(f"f{level - 1}", *names[i : i + 2]) for i in range(calls)]))
    return found


def test_calls_become_what_they_stand_for() -> None:
    square = function("square", [helper.make_node("Mul", ["x", "x"], ["y"])])
    fourth = function("fourth", [call("square", "x", "t"), call("square", "t", "y")])
    proto = model([square, fourth], [helper.make_node("Mul", ["x", "w"], ["a"]), call("fourth", "a", "y")])
    layer = lg.load_onnx(proto)
    assert layer.to_graph().op_counts() == {"Mul": 3}
    x = np.random.default_rng(0).normal(size=(2, 3)).astype(np.float32)
    np.testing.assert_allclose(layer.forward(x), (x * [1, 2, 3]) ** 4, rtol=1e-5)
    assert len(proto.functions) == 2, "the model that was given stays as it is"


def test_a_call_inside_a_branch() -> None:
    square = function("square", [helper.make_node("Mul", ["x", "x"], ["y"])])
    branch = helper.make_graph(
        [call("square", "x", "t")], "g", [], [helper.make_tensor_value_info("t", TensorProto.FLOAT, ["n", 3])]
    )
    nodes = [
        helper.make_node("Constant", [], ["flag"], value=numpy_helper.from_array(np.asarray(True))),
        helper.make_node("If", ["flag"], ["y"], then_branch=branch, else_branch=branch),
    ]
    x = np.asarray([[1, -2, 3]], np.float32)
    layer = lg.load_onnx(model([square], nodes))
    np.testing.assert_allclose(layer.forward(x), x * x)
    np.testing.assert_allclose(lg.Session(lg.export_onnx(layer)).run(x), x * x)


REFUSED: dict[str, tuple[onnx.ModelProto, str]] = {
    "one that calls itself": (
        model([function("f", [call("f", "x", "y")])], [call("f", "x", "y")]),
        "the function 'local::f' calls itself",
    ),
    "two that call each other": (
        model([function("f", [call("g", "x", "y")]), function("g", [call("f", "x", "y")])], [call("f", "x", "y")]),
        "the function 'local::f' calls itself",
    ),
    "two of one name": (model(chain(1, 1) * 2, [call("f0", "x", "y")]), "two functions are called 'local::f0'"),
    "forty that double": (model(chain(40, 2), [call("f39", "x", "y")]), "more than 1,000,000 nodes"),
    "one of another opset": (
        model([function("f", [helper.make_node("Relu", ["x"], ["y"])], opset=13)], [call("f", "x", "y")]),
        "'local::f' is written for another opset",
    ),
    "one that is not there": (model(chain(1, 1), [call("f1", "x", "y")]), r"node 'f1 y' \(local::f1\)"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_functions_that_cannot_be_written_out(what: str) -> None:
    proto, message = REFUSED[what]
    proto.graph.output[0].CopyFrom(helper.make_empty_tensor_value_info("y"))
    with pytest.raises(LoadError, match=message):
        read_model(proto.SerializeToString())


def test_a_layer_is_written_as_an_onnxscript_function() -> None:
    pytest.importorskip("onnxscript")
    from tests.onnx.scripts import lookup

    layer = lg.load_onnx(lookup)
    assert {name: str(kind) for name, kind in layer.inputs.items()} == {
        "ids": "int64[n, t]",
        "gain": "float32[n, t, 4]",
    }
    x = {"ids": np.asarray([[0, 2]]), "gain": np.full((1, 2, 4), 0.5, np.float32)}
    wanted = np.arange(12).reshape(3, 4)[x["ids"]]
    np.testing.assert_allclose(layer.forward(x), wanted)
    np.testing.assert_allclose(lg.Session(lookup).run(x), wanted)
