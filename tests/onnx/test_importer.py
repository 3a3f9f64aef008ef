"""Reading models that others wrote, and refusing what cannot be trusted."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.reference
import pytest
from onnx import TensorProto, helper, numpy_helper

from lora_graph.errors import LoadError
from lora_graph.ir import Constant, Input, Parameter
from lora_graph.onnx import Imported, lower, read_model
from tests.reference import close, run

Shape = list[Any]


def model_of(
    nodes: list[onnx.NodeProto],
    inputs: dict[str, Shape],
    outputs: list[str],
    initializers: dict[str, Any] | None = None,
    *,
    opset: int = 17,
    kinds: dict[str, int] | None = None,
) -> onnx.ModelProto:
    def info(name: str, shape: Shape) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, (kinds or {}).get(name, TensorProto.FLOAT), shape)

    graph = helper.make_graph(
        nodes,
        "foreign",
        [info(name, shape) for name, shape in inputs.items()],
        [helper.make_empty_tensor_value_info(name) for name in outputs],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in (initializers or {}).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def evaluated(read: Imported, feeds: dict[str, Any], sizes: dict[str, int]) -> list[Any]:
    return run(list(read.graph.outputs.values()), {**feeds, **read.state}, sizes)


def node(op_type: str, inputs: str, outputs: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op_type, inputs.split(), outputs.split(), name=f"the {op_type}", **attributes)


ints = np.asarray
FOREIGN: dict[str, tuple[list[onnx.NodeProto], dict[str, Any], int]] = {
    "gemm and flatten": (
        [node("Flatten", "x", "f"), node("Gemm", "f w b", "y", transB=1, alpha=0.5)],
        {"w": np.ones((4, 12), np.float32), "b": np.arange(4, dtype=np.float32)},
        13,
    ),
    "keepdims by default": ([node("ReduceMean", "x", "y", axes=[1, -1])], {}, 13),
    "reduce over axes given as an operand": ([node("ReduceMax", "x a", "y", keepdims=0)], {"a": ints([1])}, 18),
    "shape arithmetic": (
        [
            node("Shape", "x", "s"),
            node("Gather", "s zero", "n"),
            node("Unsqueeze", "n axes", "n1"),
            node("Concat", "n1 rest", "wanted", axis=0),
            node("Reshape", "x wanted", "y"),
        ],
        {"zero": ints(0), "axes": ints([0]), "rest": ints([-1])},
        13,
    ),
    "half of the channels": (
        [
            node("Shape", "x", "s", start=1, end=2),
            node("Div", "s two", "half"),
            node("Slice", "x zero half one", "y"),
        ],
        {"two": ints([2]), "zero": ints([0]), "one": ints([1])},
        15,
    ),
    "a size as a number": (
        [node("Size", "x", "n"), node("CastLike", "n x", "f"), node("Div", "x f", "y")],
        {},
        15,
    ),
    "split and sum": (
        [node("Split", "x parts", "a b", axis=2), node("Slice", "b z o two", "c"), node("Sum", "a c a", "y")],
        {"parts": ints([1, 2]), "z": ints([0]), "o": ints([1]), "two": ints([2])},
        13,
    ),
    "split in equal parts": ([node("Split", "x", "a b", axis=1), node("Mean", "a b", "y")], {}, 13),
    "constants of three kinds": (
        [
            node("Constant", "", "a", value_float=2.5),
            node("Constant", "", "b", value_floats=[1.0, 2.0, 3.0]),
            node("Constant", "", "c", value=numpy_helper.from_array(np.full((4, 1), 0.25, np.float32))),
            node("Mul", "x a", "xa"),
            node("Add", "xa b", "xb"),
            node("Sub", "xb c", "y"),
        ],
        {},
        13,
    ),
    "a large constant": (
        [
            node("Constant", "", "c", value=numpy_helper.from_array(np.ones((3, 400), np.float32))),
            node("MatMul", "x c", "y"),
        ],
        {},
        13,
    ),
    "constant of shape": (
        [node("Shape", "x", "s"), node("ConstantOfShape", "s", "z"), node("Add", "x z", "y")],
        {},
        13,
    ),
    "dropout in evaluation": ([node("Dropout", "x", "d"), node("Identity", "d", "y")], {}, 13),
    "max of three": ([node("Max", "x a b", "y")], {"a": np.float32(0.1), "b": np.float32(-0.1)}, 13),
    "power with an integer exponent": ([node("Pow", "x two", "y")], {"two": ints(2)}, 13),
    "squeeze without axes": ([node("Unsqueeze", "x a", "u"), node("Squeeze", "u", "y")], {"a": ints([0, 4])}, 13),
    "clip from below only": ([node("Clip", "x low", "y")], {"low": np.float32(-0.5)}, 13),
    "clip from above only": (
        [helper.make_node("Clip", ["x", "", "high"], ["y"])],
        {"high": np.float32(0.5)},
        13,
    ),
}


@pytest.mark.parametrize("what", FOREIGN)
def test_models_of_others_compute_the_same(what: str) -> None:
    nodes, initializers, opset = FOREIGN[what]
    model = model_of(nodes, {"x": ["batch", 4, 3]}, ["y"], initializers, opset=opset)
    given = np.random.default_rng(5).standard_normal((2, 4, 3)).astype(np.float32)
    expected = onnx.reference.ReferenceEvaluator(model).run(None, {"x": given})
    read = read_model(model)
    actual = evaluated(read, {"x": given}, {"batch": 2})
    for a, e in zip(actual, expected, strict=True):
        assert a.dtype == e.dtype
        close(a, e, 1e-6)
    assert read_model(lower(read.graph, read.state)).graph == read.graph


def test_which_initializers_are_parameters() -> None:
    nodes = [node("Mul", "x w", "a"), node("Add", "a c", "b"), node("Gather", "b i", "y")]
    model = model_of(
        nodes, {"x": ["n", 2]}, ["y"], {"w": np.ones(2, np.float32), "c": np.float32(2), "i": ints([0, 1])}
    )
    read = read_model(model)
    assert list(read.graph.parameters) == ["w"]
    assert read.graph.parameters["w"].op.trainable  # type: ignore[attr-defined]
    assert list(read.state) == ["w"]
    leaves = {type(value.op) for value in read.graph.values if not value.operands}
    assert leaves == {Input, Parameter, Constant}


def test_unnamed_and_oddly_named_dimensions() -> None:
    model = model_of([node("Relu", "in.0", "y")], {"in.0": [None, "batch size", 3]}, ["y"])
    (leaf,) = read_model(model).graph.inputs
    assert [str(size) for size in leaf.shape] == ["'in.0_0'", "'batch size'", "3"]


def test_scopes_come_from_node_names() -> None:
    model = model_of([helper.make_node("Relu", ["x"], ["y"], name="/encoder/layer.0/Relu")], {"x": ["n"]}, ["y"])
    read = read_model(model)
    note = read.graph.notes[read.graph.outputs["y"]]
    assert (note.scope, note.name) == ("encoder.layer.0", "y")


def test_an_initializer_that_is_also_listed_as_an_input_is_no_input() -> None:
    model = model_of([node("Mul", "x w", "y")], {"x": ["n", 2], "w": [2]}, ["y"], {"w": np.ones(2, np.float32)})
    assert read_model(model).graph.input_names == ["x"]


def relu() -> onnx.ModelProto:
    return model_of([node("Relu", "x", "y")], {"x": ["n", 2]}, ["y"])


def broken(change: Callable[[onnx.ModelProto], None]) -> onnx.ModelProto:
    model = model_of(
        [node("Mul", "x w", "a"), node("Relu", "a", "y")],
        {"x": ["n", 2]},
        ["y"],
        {"w": np.ones(2, np.float32)},
    )
    change(model)
    return model


def _twice(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(model.graph.initializer[0])


def _short(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].dims[0] = 10**12


def _negative(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].dims[0] = -2


def _typed(model: onnx.ModelProto) -> None:
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.float_data.extend([1.0, 2.0, 3.0])


def _reversed(model: onnx.ModelProto) -> None:
    nodes = list(model.graph.node)[::-1]
    model.graph.ClearField("node")
    model.graph.node.extend(nodes)


def _set(path: str, value: Any) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        target: Any = model
        *parts, last = path.split(".")
        for part in parts:
            target = target[int(part)] if part.isdigit() else getattr(target, part)
        if last.isdigit():
            target[int(last)] = value
        else:
            setattr(target, last, value)

    return change


def _elided_shape(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.ClearField("shape")


def _sparse(model: onnx.ModelProto) -> None:
    model.graph.sparse_initializer.add().values.name = "s"


def _sequence(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.sequence_type.elem_type.tensor_type.elem_type = 1


def _flag(model: onnx.ModelProto) -> None:
    model.metadata_props.add(key="lora_graph.parameters", value='{"w": 3}')


BROKEN: dict[str, tuple[Callable[[onnx.ModelProto], None], str]] = {
    "two initializers of one name": (_twice, "two initializers are called 'w'"),
    "two inputs of one name": (lambda m: m.graph.input.append(m.graph.input[0]), "two inputs are called 'x'"),
    "a result twice": (
        _set("graph.node.1.output.0", "a"),
        r"node 'the Relu' \(Relu\): its result 'a' is defined twice",
    ),
    "a result like an input": (_set("graph.node.1.output.0", "x"), "its result 'x' is defined twice"),
    "an undefined name": (_set("graph.node.1.input.0", "nope"), "'nope' is used but not defined"),
    "nodes out of order": (_reversed, "'a' is used before it is computed"),
    "a cycle": (_set("graph.node.0.input.1", "y"), "'y' is used before it is computed"),
    "an output nobody computes": (_set("graph.output.0.name", "z"), "output 'z' is not computed"),
    "dims larger than the data": (_short, r"tensor 'w': dims \[1000000000000\] of float32 take 4000000000000 bytes"),
    "negative dims": (_negative, "tensor 'w': negative dims"),
    "too many numbers": (_typed, "tensor 'w': dims .* take 2 elements, but there are 3"),
    "an unknown dtype": (_set("graph.initializer.0.data_type", 999), "tensor 'w': the element type 999"),
    "a string tensor": (_set("graph.initializer.0.data_type", 8), "tensor 'w': the element type STRING"),
    "an unknown op": (_set("graph.node.1.op_type", "Frobnicate"), r"node 'the Relu' \(Frobnicate\): .*not supported"),
    "an op of the IR that is no ONNX op": (
        _set("graph.node.1.op_type", "Parameter"),
        r"\(Parameter\): .*not supported",
    ),
    "an op of another domain": (_set("graph.node.1.domain", "com.acme"), r"com.acme::Relu\): .*not supported"),
    "too few operands": (_set("graph.node.0.op_type", "Where"), r"node 'the Mul' \(Where\)"),
    "an unknown attribute": (
        lambda m: m.graph.node[1].attribute.append(helper.make_attribute("slope", 1.0)),
        "slope",
    ),
    "opset 8": (_set("opset_import.0.version", 8), "opset 8 is not supported: 9 to 26"),
    "opset 27": (_set("opset_import.0.version", 27), "opset 27 is not supported"),
    "no opset": (lambda m: m.ClearField("opset_import"), "one version of the default opset"),
    "shapes that do not fit": (
        _set("graph.input.0.type.tensor_type.shape.dim.1.dim_value", 3),
        r"\(Mul\): .*broadcast",
    ),
    "a negative dimension": (_set("graph.input.0.type.tensor_type.shape.dim.1.dim_value", -3), "input 'x': .*negative"),
    "an input of unknown rank": (_elided_shape, "input 'x' must be a tensor"),
    "an input that is a sequence": (_sequence, "input 'x' must be a tensor"),
    "a sparse initializer": (_sparse, "sparse initializer 's'"),
    "flags that are no flags": (_flag, "lora_graph.parameters"),
    "an output of another type": (
        lambda m: m.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 7])),
        "output 'y' is declared as another type",
    ),
}


@pytest.mark.parametrize("what", BROKEN)
def test_broken_models_are_refused_with_a_reason(what: str) -> None:
    change, message = BROKEN[what]
    with pytest.raises(LoadError, match=message):
        read_model(broken(change).SerializeToString())


def test_an_attribute_that_nobody_implements_is_an_error_and_its_default_is_none() -> None:
    def argmax(last: int) -> onnx.ModelProto:
        return model_of([node("ArgMax", "x", "y", axis=1, select_last_index=last)], {"x": ["n", 2]}, ["y"])

    assert read_model(argmax(0)).graph.outputs["y"].op.name == "ArgMax"
    with pytest.raises(LoadError, match="select_last_index=1"):
        read_model(argmax(1))


def test_a_result_that_is_used_but_not_computed_is_an_error() -> None:
    nodes = [helper.make_node("BatchNormalization", ["x", *["w"] * 4], ["y", "mean", "var", "m", "v"], name="norm")]
    initializers = {"w": np.ones(2, np.float32)}
    assert list(read_model(model_of(nodes, {"x": ["n", 2]}, ["y"], initializers, opset=13)).graph.outputs) == ["y"]
    with pytest.raises(LoadError, match=r"node 'norm' \(BatchNormalization\): its result 'mean'"):
        read_model(model_of(nodes, {"x": ["n", 2]}, ["y", "mean"], initializers, opset=13))


def test_a_note_that_is_not_true_of_its_node_is_not_believed() -> None:
    model = model_of([node("ReduceSum", "x a", "y")], {"x": ["n", 2]}, ["y"], {"a": ints([1])}, opset=18)
    model.graph.node[0].metadata_props.add(key="lora_graph.exact.axes", value="(-2,)")
    assert read_model(model).graph.outputs["y"].op.attributes()["axes"] == (1,)
    model.graph.node[0].metadata_props[0].value = "__import__('os')"
    with pytest.raises(LoadError, match="cannot be read"):
        read_model(model)


GARBAGE = [b"", b"\0" * 64, b"not a model at all", os.urandom(4096), b"\x08\x0a", relu().SerializeToString()[:-9]]


@pytest.mark.parametrize("content", GARBAGE, ids=range(len(GARBAGE)))
def test_garbage_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(LoadError, match=r"model\.onnx"):
        read_model(path)
    with pytest.raises(LoadError, match="the model"):
        read_model(content)


def test_every_truncation_is_refused_or_read_as_a_smaller_model() -> None:
    content = broken(lambda m: None).SerializeToString()
    refused = 0
    for length in range(len(content)):
        try:
            read_model(content[:length])
        except LoadError:
            refused += 1
    assert refused >= len(content) - 16


@pytest.mark.parametrize("mask", [0x01, 0x10, 0xFF])
def test_every_flipped_byte_is_refused_or_read(mask: int) -> None:
    content = broken(lambda m: None).SerializeToString()
    outcomes = {"read": 0, "refused": 0}
    for position in range(len(content)):
        damaged = bytearray(content)
        damaged[position] ^= mask
        try:
            assert read_model(bytes(damaged)).graph.outputs
            outcomes["read"] += 1
        except LoadError:
            outcomes["refused"] += 1
    assert outcomes["refused"] > len(content) // 4
    assert outcomes["read"] >= 8, "the bytes of the weights at least can be anything"


def test_a_missing_file_a_folder_and_another_kind_of_source(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match=r"nowhere\.onnx: cannot be read: No such file"):
        read_model(tmp_path / "nowhere.onnx")
    with pytest.raises(LoadError, match="not a regular file"):
        read_model(tmp_path)
    with pytest.raises(TypeError, match="not int"):
        read_model(3)  # type: ignore[arg-type]


def external(folder: Path, entries: dict[str, str], shape: list[int] | None = None) -> Path:
    model = broken(lambda m: None)
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=value)
    if shape:
        tensor.ClearField("dims")
        tensor.dims.extend(shape)
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def test_external_data_is_mapped(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "w.bin").write_bytes(b"\0" * 4 + np.asarray([3.0, 4.0], np.float32).tobytes())
    path = external(tmp_path, {"location": "sub/w.bin", "offset": "4", "length": "8"})
    read = read_model(path)
    np.testing.assert_array_equal(read.state["w"], [3.0, 4.0])
    read.state["w"][:] = 0
    assert (tmp_path / "sub" / "w.bin").read_bytes().endswith(np.asarray([3.0, 4.0], np.float32).tobytes())
    with pytest.raises(LoadError, match=r"tensor 'w'.*read from a path"):
        read_model(path.read_bytes())


UNTRUSTED: dict[str, tuple[dict[str, str], str]] = {
    "no location": ({}, "inside the model's folder"),
    "a folder above": ({"location": "../w.bin"}, "inside the model's folder"),
    "a detour above": ({"location": "sub/../../w.bin"}, "inside the model's folder"),
    "an absolute path": ({"location": "/etc/passwd"}, "inside the model's folder"),
    "a windows path": ({"location": "C:\\w.bin"}, "inside the model's folder"),
    "a link": ({"location": "link.bin"}, "is a link"),
    "a linked folder": ({"location": "linked/w.bin"}, "is a link"),
    "a hard link": ({"location": "hard.bin"}, "without links"),
    "a folder": ({"location": "sub"}, "no regular file"),
    "a missing file": ({"location": "gone.bin"}, "missing"),
    "too far": ({"location": "w.bin", "offset": "4"}, "beyond the 8"),
    "far too far": ({"location": "w.bin", "offset": "999999999999999"}, "beyond the 8"),
    "a negative offset": ({"location": "w.bin", "offset": "-4"}, "offset '-4'"),
    "another length": ({"location": "w.bin", "length": "4"}, "length is 4"),
}


@pytest.mark.parametrize("what", UNTRUSTED)
def test_external_data_that_cannot_be_trusted(what: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    for place in (tmp_path / "w.bin", folder / "w.bin", folder / "sub" / "w.bin", folder / "one.bin"):
        place.write_bytes(np.ones(2, np.float32).tobytes())
    (folder / "link.bin").symlink_to(folder / "w.bin")
    (folder / "linked").symlink_to(folder / "sub")
    (folder / "hard.bin").hardlink_to(folder / "one.bin")
    entries, message = UNTRUSTED[what]
    with pytest.raises(LoadError, match=rf"model\.onnx: tensor 'w'.*{message}"):
        read_model(external(folder, entries))


def test_dims_that_promise_more_than_a_data_file_holds(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(b"\0" * 8)
    with pytest.raises(LoadError, match="beyond the 8"):
        read_model(external(tmp_path, {"location": "w.bin"}, [2**40]))


def test_a_large_shape_costs_nothing_to_read() -> None:
    nodes = [node("ConstantOfShape", "s", "z"), node("Expand", "z t", "y")]
    model = model_of(nodes, {"x": ["n"]}, ["y"], {"s": ints([2**40, 2**20]), "t": ints([2**40, 2**20])})
    assert read_model(model).graph.outputs["y"].shape == (2**40, 2**20)
