"""Models as onnxscript source: what running the source gives is the same model."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxscript import OnnxFunction

import lora_graph as lg
from lora_graph.errors import LoadError
from lora_graph.onnx import read_model
from lora_graph.onnx.script import script_of
from tests.onnx.forms.models import adapted, convolutional, dense, embedding
from tests.onnx.test_opaque import conditional, foreign_domain, unknown_op

Load = Callable[[str], onnx.ModelProto]


@pytest.fixture
def load(tmp_path: Path) -> Iterator[Load]:
    """Runs source as a module of its own, and gives the model of the only function in it."""
    names: list[str] = []

    def run(text: str) -> onnx.ModelProto:
        names.append(f"scripted_{tmp_path.name}_{len(names)}".replace("-", "_"))
        path = tmp_path / f"{names[-1]}.py"
        path.write_text(text)
        spec = importlib.util.spec_from_file_location(names[-1], path)
        assert spec is not None
        assert spec.loader is not None
        module = sys.modules[names[-1]] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        (function,) = [item for item in vars(module).values() if isinstance(item, OnnxFunction)]
        return function.to_model_proto()

    yield run
    for name in names:
        del sys.modules[name]


def outputs(model: Any, inputs: list[Any]) -> list[Any]:
    """What ONNX Runtime computes, op by op, from inputs in the order of the model."""
    with lg.Session(model, optimize=False, threads=1) as session:
        found = session.run(dict(zip(session.inputs, inputs, strict=True)))
    return list(found.values()) if isinstance(found, dict) else [found]


def check_same(source: Any, model: onnx.ModelProto, *inputs: Any) -> None:
    for expected, found in zip(outputs(source, list(inputs)), outputs(model, list(inputs)), strict=True):
        assert np.array_equal(expected, found)
        assert expected.dtype == found.dtype


MODELS: dict[str, tuple[Callable[[np.random.Generator], Any], tuple[int, ...]]] = {
    "dense": (dense, (3, 12)),
    "low rank": (lambda rng: adapted(dense(rng), "lora", rng), (3, 12)),
    "convolutions": (lambda rng: adapted(convolutional(rng), "lora", rng), (2, 4, 7, 7)),
    "recurrent": (lambda rng: lg.LSTMLayer(5, 6, rng=rng), (2, 3, 5)),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("opset", [21, 26])
def test_the_source_of_layers(name: str, opset: int, load: Load, rng: np.random.Generator) -> None:
    build, shape = MODELS[name]
    source = lg.export_onnx(build(rng), opset=opset)
    model = load(script_of(source))
    check_same(source, model, rng.normal(size=shape).astype(np.float32))
    onnx.checker.check_model(model, full_check=True)
    assert model.opset_import[0].version == opset
    assert read_model(model).graph.op_counts() == read_model(source).graph.op_counts()


def test_integers_and_names_of_dimensions(load: Load, rng: np.random.Generator) -> None:
    source = lg.export_onnx(embedding(rng), input_shape=("batch", "time"))
    text = script_of(source)
    assert "x: INT64['batch', 'time']" in text
    check_same(source, load(text), rng.integers(0, 11, (2, 3)))


def test_subgraphs_become_functions(load: Load, rng: np.random.Generator) -> None:
    source = conditional()
    text = script_of(source)
    assert text.count("@graph()") == 2
    for x in (np.ones((2, 3), np.float32), -np.ones((2, 3), np.float32)):
        check_same(source, load(text), x)


def test_results_that_are_not_used_and_other_domains(load: Load, rng: np.random.Generator) -> None:
    source = unknown_op()
    check_same(source, load(script_of(source)), np.array([3, 1, 3, 2, 1, 1], np.float32))
    source = foreign_domain()
    text = script_of(source)
    assert "Opset('com.microsoft', 1)" in text
    found = load(text)
    assert [(node.domain, node.op_type) for node in found.graph.node if node.op_type != "Constant"] == [
        ("com.microsoft", "FusedMatMul"),
        ("", "Tanh"),
    ]


def test_large_weights_are_read_from_the_file(load: Load, rng: np.random.Generator, tmp_path: Path) -> None:
    layer = lg.DenseLayer(40, 50, rng=rng)
    path = tmp_path / "model.onnx"
    lg.export_onnx(layer, path)
    text = script_of(path, str(path))
    assert len(text) < 3000
    assert f"onnx.load({str(path)!r})" in text
    check_same(path, load(text), rng.normal(size=(3, 40)).astype(np.float32))


def floats(*values: float, dtype: Any = np.float32) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(values, dtype), "c")


@pytest.mark.parametrize(
    "tensor",
    [
        floats(0.1, np.inf, -np.inf, np.nan, -0.0, 1e-45, 3.4028235e38),
        floats(0.1, np.nan, 1e-300, dtype=np.float64),
        floats(0.1, 65504, dtype=np.float16),
        floats(-(2**63), 2**63 - 1, dtype=np.int64),
        floats(0, 2**64 - 1, dtype=np.uint64),
        floats(True, False, dtype=np.bool_),
        helper.make_tensor("c", TensorProto.BFLOAT16, [2], [0.5, -3.0]),
        numpy_helper.from_array(np.float32(0.1), "c"),
        numpy_helper.from_array(np.zeros((0, 3), np.float32), "c"),
        numpy_helper.from_array(np.arange(8, dtype=np.int8).reshape(2, 1, 4), "c"),
    ],
    ids=lambda tensor: f"{TensorProto.DataType.Name(tensor.data_type)}{list(tensor.dims)}",
)
def test_constants_are_exact(tensor: onnx.TensorProto, load: Load) -> None:
    kind = helper.make_tensor_type_proto(tensor.data_type, list(tensor.dims))
    node = helper.make_node("Identity", ["c"], ["y"])
    graph = helper.make_graph([node], "g", [], [helper.make_value_info("y", kind)], [tensor])
    source = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    (constant,) = [node for node in load(script_of(source)).graph.node if node.op_type == "Constant"]
    written, found = numpy_helper.to_array(tensor), numpy_helper.to_array(constant.attribute[0].t)
    assert written.dtype == found.dtype
    assert written.shape == found.shape
    assert written.tobytes() == found.tobytes()


HOSTILE = "x'\n    import os; os.abort()  # \" \\ \u202e <b>"


def test_names_never_become_code(load: Load, rng: np.random.Generator) -> None:
    source = lg.export_onnx(lg.DenseLayer(3, 2, rng=rng))
    renamed = onnx.ModelProto.FromString(source.SerializeToString().replace(b"weight", b"w\n'\"\\;"))
    graph = renamed.graph
    graph.name = graph.doc_string = graph.node[0].name = graph.node[0].doc_string = HOSTILE
    graph.node[0].metadata_props.add(key="pkg.torch.onnx.name_scopes", value=repr(["a", HOSTILE, "c"]))
    for item in (graph.input[0], graph.output[0]):
        item.type.tensor_type.shape.dim[0].dim_param = HOSTILE
    for node in graph.node:
        node.input[:] = [HOSTILE if name == "x" else name for name in node.input]
    graph.input[0].name = HOSTILE
    graph.value_info.clear()
    check_same(renamed, load(script_of(renamed)), rng.normal(size=(2, 3)).astype(np.float32))


def test_names_that_are_alike_stay_apart(load: Load) -> None:
    names = ["a.b", "a_b", "a b", "op", "class", "1", "tensor", "np"]
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in names]
    outs = [helper.make_tensor_value_info(f"{name}?", TensorProto.FLOAT, [2]) for name in names]
    nodes = [helper.make_node("Sub" if i else "Add", [name, names[0]], [f"{name}?"]) for i, name in enumerate(names)]
    graph = helper.make_graph(nodes, "script", inputs, outs)
    source = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    check_same(source, load(script_of(source)), *(np.full(2, i, np.float32) for i in range(len(names))))


def test_what_has_no_form_is_refused() -> None:
    node = helper.make_node("System('x')", ["x"], ["y"], domain="local")
    kinds = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in "xy"]
    graph = helper.make_graph([node], "g", kinds[:1], kinds[1:])
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("local", 1)]
    source = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    with pytest.raises(ValueError, match="is no name that onnxscript could call an op"):
        script_of(source)
    with pytest.raises(LoadError):
        script_of(b"no model")
