"""Lowering: interfaces, names, types, dimensions, metadata, and what it refuses."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx.reference
import pytest

from lora_graph import ops
from lora_graph.autodiff import gradients
from lora_graph.ir import (
    Graph,
    Note,
    Op,
    TensorType,
    TupleType,
    Value,
    apply,
    constant,
    dim,
    input,  # noqa: A004
    parameter,
    project,
    size_of,
)
from lora_graph.ir.op import OPS
from lora_graph.onnx import Session, lower, read_model
from tests.reference import close, run

x = input("x", np.float32, ("batch", 6))
w = parameter("base.weight", np.float32, (6, 4))
b = parameter("base.bias", np.float32, (4,), trainable=False)


def state() -> dict[str, Any]:
    rng = np.random.default_rng(3)
    return {"base.weight": rng.standard_normal((6, 4), np.float32), "base.bias": rng.standard_normal(4, np.float32)}


def checked(graph: Graph, arrays: dict[str, Any], **options: Any) -> onnx.ModelProto:
    model = lower(graph, arrays, **options)
    onnx.checker.check_model(model, full_check=True)
    return model


def test_importing_the_package_imports_no_onnx() -> None:
    script = "import sys, lora_graph.onnx; assert not {'onnx', 'onnx_ir', 'onnxruntime'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)


def test_names_types_and_values() -> None:
    product = x @ w
    y = ops.relu(product + b)
    graph = Graph((x,), {"y": y}, {product: Note(scope="base"), y: Note(scope="base")}, "dense")
    model = checked(graph, state(), doc="one layer")
    assert model.graph.name == "dense"
    assert model.doc_string == "one layer"
    assert [node.name for node in model.graph.node] == ["base.MatMul", "Add", "base.Relu"]
    assert [tensor.name for tensor in model.graph.initializer] == ["base.weight", "base.bias"]
    shapes = {
        item.name: [d.dim_param or d.dim_value for d in item.type.tensor_type.shape.dim]
        for item in (*model.graph.input, *model.graph.output, *model.graph.value_info)
    }
    assert shapes == {"x": ["batch", 6], "y": ["batch", 4], "base.MatMul": ["batch", 4], "Add": ["batch", 4]}
    given = np.random.default_rng(1).standard_normal((5, 6)).astype(np.float32)
    (expected,) = onnx.reference.ReferenceEvaluator(model).run(None, {"x": given})
    close(Session(model).run(given), expected, 1e-6)
    arrays = state()
    close(expected, np.maximum(given @ arrays["base.weight"] + arrays["base.bias"], 0), 1e-6)


def test_noted_names_are_kept_and_made_unique() -> None:
    first, second = x.exp(), x.tanh()
    notes = {first: Note(name="hidden"), second: Note(name="hidden")}
    model = checked(Graph((x,), {"y": first + second}, notes), {})
    assert [name for node in model.graph.node for name in node.output] == ["hidden", "hidden.1", "y"]


def test_outputs_that_are_leaves_or_the_same_value() -> None:
    y = x * 2.0
    graph = Graph((x,), {"same": x, "y": y, "again": y, "weight": w, "three": constant(np.float32(3))})
    model = checked(graph, state())
    result = Session(model).run({"x": np.ones((2, 6), np.float32)})
    assert list(result) == ["same", "y", "again", "weight", "three"]
    close(result["again"], np.full((2, 6), 2.0), 0)
    close(result["weight"], state()["base.weight"], 0)
    assert result["three"] == 3
    assert read_model(model).graph == graph


def test_an_unused_input_stays() -> None:
    unused = input("unused", np.int64, ("n",))
    graph = Graph((unused, x), {"y": x + 1.0})
    assert read_model(checked(graph, {})).graph == graph


EXPRESSIONS = [
    "height",
    "2*height",
    "height*width",
    "height*width-width",
    "3-height",
    "-height*height",
    "(height-3)//2+4",
    "height//width",
    "min(height,width)+1",
    "max(height-width,0)",
    "(2*height+width)//(width+1)*height",
    "max(height//2,min(width,7))*5-3*height",
]


@pytest.mark.parametrize("text", EXPRESSIONS)
def test_every_dimension_expression_is_computed_and_read_back(text: str) -> None:
    image = input("image", np.float32, ("height", "width"))
    graph = Graph((image,), {"size": size_of(dim(text))})
    model = checked(graph, {})
    assert read_model(model).graph == graph
    session = Session(model)
    for height, width in ((0, 1), (1, 1), (1, 5), (2, 3), (6, 4), (7, 2)):
        expected = eval(text, {}, {"height": height, "width": width, "min": min, "max": max})
        assert session.run(np.zeros((height, width), np.float32)) == expected, (height, width)


def test_a_dimension_known_only_as_an_expression_is_measured_where_it_stands() -> None:
    pairs = input("pairs", np.float32, ("2*n", 3))
    graph = Graph((pairs,), {"y": ops.expand(constant(np.float32(1)), ("2*n", 2)), "count": size_of(dim("2*n+1"))})
    with pytest.raises(ValueError, match="dimension n is not that of any input"):
        lower(graph, {})
    graph = graph.with_outputs({"y": graph.outputs["y"]})
    model = checked(graph, {})
    assert read_model(model).graph == graph
    assert Session(model).run(np.zeros((4, 3), np.float32)).shape == (4, 2)


@pytest.mark.parametrize(("batch", "time"), [(0, 3), (2, 0), (0, 0), (1, 1), (3, 2)])
def test_reshapes_hold_on_empty_and_single_batches(batch: int, time: int) -> None:
    h = input("h", np.float32, ("batch", "time", 4))
    flat = h.reshape("batch*time", 4)
    outputs = {
        "flat": flat,
        "back": flat.reshape("batch", "time", 4),
        "halves": h.reshape("time", "batch", 2, 2),
        "line": h.reshape(-1),
        "empty": h[:, :, 2:2].reshape("batch", 0, "time"),
    }
    graph = Graph((h,), outputs)
    model = checked(graph, {})
    assert read_model(model).graph == graph
    given = np.random.default_rng(0).standard_normal((batch, time, 4)).astype(np.float32)
    result = Session(model).run(given)
    shapes = [(batch * time, 4), (batch, time, 4), (time, batch, 2, 2), (batch * time * 4,), (batch, 0, time)]
    for (name, value), shape in zip(result.items(), shapes, strict=True):
        assert value.shape == shape, name
        close(value, given.ravel().reshape(shape) if value.size else np.zeros(shape), 0)


def test_shared_constants_and_dimensions_are_written_once() -> None:
    y = ops.expand(x.mean(1, True), x.shape) + ops.expand(x.max(1, True), x.shape)
    model = checked(Graph((x,), {"y": y * 2.0 + 2.0}), {})
    assert sum(node.op_type == "Shape" for node in model.graph.node) == 1
    tensors = [onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer]
    assert len({(t.dtype, t.shape, t.tobytes()) for t in tensors}) == len(tensors)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("opset", range(21, 27))
def test_gradients_can_be_exported(opset: int, dtype: Any) -> None:
    data, target = input("data", dtype, ("batch", 6)), input("target", dtype, ("batch", 4))
    weight, scale = parameter("weight", dtype, (6, 4)), parameter("scale", dtype, (4,))
    y = ops.layer_normalization(ops.silu(data @ weight), scale)
    loss = ((ops.softplus(y) - target) * (y - target)).mean()
    of_weight, of_scale = gradients(loss, [weight, scale])
    graph = Graph((data, target), {"loss": loss, "dw": of_weight, "ds": of_scale})
    rng = np.random.default_rng(opset)
    arrays = {"weight": rng.standard_normal((6, 4)).astype(dtype), "scale": rng.standard_normal(4).astype(dtype)}
    feeds = {name: rng.standard_normal((3, n)).astype(dtype) for name, n in (("data", 6), ("target", 4))}
    result = Session(checked(graph, arrays, opset=opset)).run(feeds)
    expected = run(list(graph.outputs.values()), {**feeds, **arrays}, {"batch": 3})
    for actual, wanted in zip(result.values(), expected, strict=True):
        close(actual, wanted, 1e-5 if dtype == np.float32 else 1e-12)


@dataclass(frozen=True, eq=False)
class TopTwo(Op, abstract=True):
    """Stands for TopK in this test: an op with two results."""

    @property
    def name(self) -> str:
        return "TopK"

    def infer(self, *operands: TensorType) -> TupleType:
        values = operands[0].with_shape((*operands[0].shape[:-1], 2))
        return TupleType((values, values.with_dtype(np.int64)))

    def lower(self, to: Any, *operands: str) -> str:
        return to.node("TopK", [*operands, to.constant(np.asarray([2]))], results=2)

    @classmethod
    def read(cls, node: Any) -> Value:
        return apply(cls(), node.operands[0])


@pytest.mark.parametrize("used", [(0, 1), (0,), (1,)])
def test_ops_with_several_results(used: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OPS, "TopK", TopTwo)
    both = apply(TopTwo(), x)
    graph = Graph((x,), {f"r{i}": project(both, i) for i in used})
    model = checked(graph, {})
    given = np.asarray([[1, 5, 3, 2, 9, 0]], np.float32)
    result = Session(model).run(given)
    expected = [np.asarray([[9, 5]], np.float32), np.asarray([[4, 1]])]
    for i, value in zip(used, result.values() if len(used) > 1 else [result], strict=True):
        np.testing.assert_array_equal(value, expected[i])
    assert read_model(model).graph == graph


def test_a_parameter_with_a_named_dimension_can_be_overridden() -> None:
    a, c = parameter("A", np.float32, (6, "rank")), parameter("B", np.float32, ("rank", 4))
    graph = Graph((x,), {"y": (x @ a) @ c})
    model = checked(graph, {"A": np.zeros((6, 0), np.float32), "B": np.zeros((0, 4), np.float32)})
    assert {item.name for item in model.graph.input} == {"x", "A", "B"}
    read = read_model(model)
    assert read.graph == graph
    assert read.state["A"].shape == (6, 0)
    assert not Session(model).run({"x": np.ones((2, 6), np.float32)}).any()
    with pytest.raises(ValueError, match="parameter 'B'"):
        lower(graph, {"A": np.zeros((6, 2), np.float32), "B": np.zeros((3, 4), np.float32)})


def test_metadata_and_trainable_flags_come_back() -> None:
    graph = Graph((x,), {"y": x @ w + b})
    model = checked(graph, state(), metadata={"lora_graph.family": "lora", "note": "é"})
    read = read_model(model)
    assert read.graph == graph
    assert {key: read.metadata[key] for key in ("lora_graph.family", "note")} == {
        "lora_graph.family": "lora",
        "note": "é",
    }
    assert "lora_graph.version" in read.metadata
    close(read.state["base.weight"], state()["base.weight"], 0)
    read.state["base.weight"][:] = 0


@pytest.mark.parametrize("number", [0.1, 1 / 3, 1e-45, 2.5, -0.0, 3e38, 0.30000001192092896])
def test_float_attributes_come_back_to_the_last_digit(number: float) -> None:
    graph = Graph((x,), {"y": ops.leaky_relu(x, number)})
    assert read_model(checked(graph, {})).graph == graph


def test_named_dimensions_may_be_called_anything() -> None:
    odd = input("odd", np.float32, (dim("'batch size'"), dim("'3'"), "n"))
    graph = Graph((odd,), {"y": odd.reshape(-1, "n")})
    assert read_model(checked(graph, {})).graph == graph


REFUSED: list[tuple[str, Any, str]] = [
    ("opset 20", lambda: lower(Graph((x,), {"y": x}), {}, opset=20), r"opset must be in 21\.\.26, got 20"),
    ("opset 27", lambda: lower(Graph((x,), {"y": x}), {}, opset=27), r"opset must be in 21\.\.26, got 27"),
    ("no array", lambda: lower(Graph((x,), {"y": x @ w}), {}), "no array for parameter 'base.weight'"),
    (
        "wrong shape",
        lambda: lower(Graph((x,), {"y": x @ w}), {"base.weight": np.zeros((4, 6), np.float32)}),
        r"parameter 'base.weight' is float32\[6, 4\], but its array is float32\[4, 6\]",
    ),
    (
        "wrong dtype",
        lambda: lower(Graph((x,), {"y": x @ w}), {"base.weight": np.zeros((6, 4))}),
        "its array is float64",
    ),
    ("output named as input", lambda: lower(Graph((x,), {"x": x + 1.0}), {}), "output 'x' is also the name"),
    ("empty name", lambda: lower(Graph((x,), {"": x + 1.0}), {}), "output '' is empty"),
    ("own metadata", lambda: lower(Graph((x,), {"y": x}), {}, metadata={"lora_graph.version": "9"}), "itself"),
    ("no kernel", lambda: lower(Graph((x,), {"y": ops.erf(x.astype("float64"))}), {}), "no Erf for float64"),
    ("no op", lambda: lower(Graph((x,), {"y": x.astype("int8") @ w.astype("int8")}), state()), "no MatMul for int8"),
]


@pytest.mark.parametrize(("what", "attempt", "message"), REFUSED, ids=[row[0] for row in REFUSED])
def test_refusals_name_what_is_wrong(what: str, attempt: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        attempt()


def test_metadata_must_be_text() -> None:
    with pytest.raises(TypeError, match="'rank': 8"):
        lower(Graph((x,), {"y": x}), {}, metadata={"rank": 8})  # type: ignore[dict-item]


def test_a_long_chain_is_lowered_and_read_without_recursion() -> None:
    y = x
    for _ in range(10_000):
        y = y.exp()
    graph = Graph((x,), {"y": y})
    assert read_model(lower(graph, {})).graph == graph
