"""Pools against ONNX Runtime and PyTorch over random geometries, and what they refuse."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper

from lora_graph import ops
from lora_graph.autodiff import gradients
from lora_graph.interpret import compile_graph
from lora_graph.ir import OPS, Graph, apply, constant, input  # noqa: A004
from lora_graph.onnx import Session, lower, read_model
from tests.reference import close, differences, run

GEOMETRIES = 150


def geometry(rng: np.random.Generator, axes: int) -> tuple[tuple[int, ...], dict[str, Any]]:
    """A random shape, and attributes of a pool whose windows all fit it and see more than padding."""
    while True:
        kernel, strides, dilations = (rng.integers(1, high, axes) for high in (5, 4, 3))
        spatial = rng.integers(1, 10 if axes < 3 else 7, axes)
        pads = rng.integers(0, kernel.tolist() * 2)
        reach = (kernel - 1) * dilations + 1
        fits = (spatial + pads[:axes] + pads[axes:] >= reach).all()
        # a dilated window may step over the whole input
        if fits and (spatial >= dilations).all():
            break
    attributes = {"kernel_shape": kernel, "strides": strides, "dilations": dilations, "pads": pads}
    named: dict[str, Any] = {name: tuple(map(int, numbers)) for name, numbers in attributes.items()}
    named["ceil_mode"] = int(rng.integers(2))
    if rng.random() < 0.25:
        named["auto_pad"] = str(rng.choice(["SAME_UPPER", "SAME_LOWER", "VALID"]))
        del named["pads"]
        if named["auto_pad"] != "VALID":  # ONNX Runtime overlooks dilations, and cuts where a stride exceeds the kernel
            named["dilations"] = (1,) * axes
            named["strides"] = tuple(map(min, named["strides"], named["kernel_shape"]))
        elif (spatial < reach).any():
            del named["auto_pad"]
            named["pads"] = tuple(map(int, pads))
    batch, channels = rng.integers(1, 4, 2)
    return (int(batch), int(channels), *map(int, spatial)), named


def model(op_type: str, shape: Any, attributes: dict[str, Any], results: int = 1, opset: int = 22) -> onnx.ModelProto:
    """A model with one pool, written by hand."""
    outputs = [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [None] * len(shape))]
    outputs += [helper.make_tensor_value_info("at", onnx.TensorProto.INT64, [None] * len(shape))] * (results - 1)
    node = helper.make_node(op_type, ["x"], [item.name for item in outputs], **attributes)
    given = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape)
    graph = helper.make_graph([node], "pool", [given], outputs)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def by_runtime(built: onnx.ModelProto, x: Any) -> list[Any]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(built.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return list(session.run(None, {"x": x}))


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("op_type", ["MaxPool", "AveragePool"])
def test_onnx_runtime_agrees_over_random_geometries(op_type: str, axes: int) -> None:
    ran = {"ceil_mode": 0, "auto_pad": 0, "dilated": 0, "padded": 0}
    for seed in range(GEOMETRIES):
        rng = np.random.default_rng([axes, seed])
        shape, attributes = geometry(rng, axes)
        results = 2 if op_type == "MaxPool" else 1
        if op_type == "AveragePool":
            attributes["count_include_pad"] = int(rng.integers(2))
        x = rng.permutation(int(np.prod(shape))).reshape(shape).astype(np.float32)
        print(f"seed {[axes, seed]}: {op_type} of {shape}, {attributes}")
        built = model(op_type, shape, attributes, results)
        expected = by_runtime(built, x)
        read = read_model(built)
        for name, truth in zip(read.graph.outputs, expected, strict=True):
            (value,) = run([read.graph.outputs[name]], {"x": x})
            close(value, truth, 2e-6)
        again = read_model(lower(read.graph, read.state, opset=22))
        assert again.graph == read.graph
        ran["ceil_mode"] += attributes["ceil_mode"]
        ran["auto_pad"] += "auto_pad" in attributes
        ran["dilated"] += max(attributes["dilations"]) > 1
        ran["padded"] += any(attributes.get("pads", ()))
    print(f"{op_type}, {axes} spatial axes: {GEOMETRIES} geometries agreed with ONNX Runtime, of which {ran}")
    assert min(ran.values()) >= GEOMETRIES // 8


@pytest.mark.parametrize("op_type", ["MaxPool", "AveragePool"])
@pytest.mark.parametrize("mode", ["SAME_UPPER", "SAME_LOWER"])
def test_same_padding_of_a_size_that_is_known_only_at_run_time(op_type: str, mode: str) -> None:
    attributes = {"kernel_shape": (3, 4), "strides": (2, 3), "auto_pad": mode}
    built = model(op_type, ("batch", 2, "height", "width"), attributes)
    read = read_model(built)
    assert [str(d) for d in read.graph.outputs["y"].shape[2:]] == ["((height+1)//2)", "((width+2)//3)"]
    program, session = compile_graph(read.graph), Session(lower(read.graph, read.state))
    for spatial in ((5, 4), (6, 6), (1, 7)):
        x = np.random.default_rng(5).standard_normal((2, 2, *spatial)).astype(np.float32)
        (truth,) = by_runtime(built, x)
        close(program.run({"x": x}, {})["y"], truth, 2e-6)
        close(session.run(x), truth, 2e-6)


def test_the_gradient_goes_to_the_first_of_equal_maxima() -> None:
    x = input("x", np.float64, (1, 1, 4))
    y = ops.max_pool(x, 2)
    (gradient,) = gradients(y, [x], constant(np.array([[[1.0, 10.0, 100.0]]])))
    feeds = {"x": np.array([[[1.0, 1.0, 1.0, 0.0]]])}
    np.testing.assert_array_equal(run([ops.max_pool_indices(x, 2)], feeds)[0], [[[0, 1, 2]]])
    np.testing.assert_array_equal(run([gradient], feeds)[0], [[[1.0, 10.0, 100.0, 0.0]]])


def test_a_window_of_infinities_has_an_index_of_its_own() -> None:
    x = input("x", np.float32, (1, 1, 2, 3))
    found = run([ops.max_pool_indices(x, 2, pads=(1, 1, 0, 0))], {"x": np.full((1, 1, 2, 3), -np.inf, np.float32)})[0]
    np.testing.assert_array_equal(found, [[[[0, 0, 1], [0, 0, 1]]]])


@pytest.mark.parametrize("name", ["max_pool", "average_pool", "global_average_pool", "global_max_pool"])
def test_gradients_at_run_time_sizes(name: str) -> None:
    pooled = {"max_pool": {"kernel_shape": 3, "strides": 2, "pads": 1, "ceil_mode": True}}
    options = {**pooled, "average_pool": pooled["max_pool"]}.get(name, {})
    x = input("x", np.float64, ("batch", 2, "height", "width"))
    y = getattr(ops, name)(x, **options)
    program = compile_graph(Graph((x,), {"g": gradients((y * y).sum(), [x])[0]}))
    for spatial in ((4, 5), (6, 3)):
        array = np.random.default_rng(3).permutation(4 * spatial[0] * spatial[1]).reshape(2, 2, *spatial) * 0.25
        bound = input("x", np.float64, array.shape)
        loss = (getattr(ops, name)(bound, **options) ** 2).sum()
        truth = differences(lambda a, loss=loss: run([loss], {"x": a})[0], [array], 0)
        close(program.run({"x": array}, {})["g"], truth, 1e-7)


@pytest.mark.torch
@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("op_type", ["MaxPool", "AveragePool"])
def test_values_and_gradients_are_those_of_pytorch(op_type: str, axes: int) -> None:
    torch = pytest.importorskip("torch")
    count = 0
    for seed in range(5000):
        if count == 25:
            break
        rng = np.random.default_rng([7, axes, seed])
        shape, found = geometry(rng, axes)
        pads = found.get("pads", (0,) * 2 * axes)
        kernel, is_max = found["kernel_shape"], op_type == "MaxPool"
        symmetric = pads[:axes] == pads[axes:] and all(2 * p <= k for p, k in zip(pads, kernel, strict=False))
        # PyTorch's mean has no dilations, and takes no input smaller than the window, padded or not
        possible = is_max or (
            max(found["dilations"]) == 1 and all(n >= k for n, k in zip(shape[2:], kernel, strict=True))
        )
        if not symmetric or "auto_pad" in found or not possible:
            continue
        print(f"seed {[7, axes, seed]}: {op_type} of {shape}, {found}")
        include = int(rng.integers(2))
        given = [found["kernel_shape"], found["strides"], pads[:axes]]
        if is_max:
            theirs = getattr(torch.nn, f"MaxPool{axes}d")(
                *given, dilation=found["dilations"], ceil_mode=bool(found["ceil_mode"])
            )
            extra = {}
        else:
            theirs = getattr(torch.nn, f"AvgPool{axes}d")(*given, bool(found["ceil_mode"]), bool(include))
            extra = {"count_include_pad": include}
        array = rng.permutation(int(np.prod(shape))).reshape(shape) * 0.25
        there = torch.tensor(array, requires_grad=True)
        expected = theirs(there)
        seeds = rng.standard_normal(tuple(expected.shape))
        expected.backward(torch.tensor(seeds))
        x = input("x", np.float64, shape)
        y = apply(OPS[op_type](**found, **extra), x)
        cotangent = input("cotangent", np.float64, y.shape)
        value, gradient = run([y, *gradients(y, [x], cotangent)], {"x": array, "cotangent": seeds})
        close(value, expected.detach().numpy(), 1e-12)
        close(gradient, there.grad.numpy(), 1e-12)
        count += 1
    print(f"{op_type}, {axes} spatial axes: {count} geometries agreed with PyTorch")
    assert count == 25


X = input("x", np.float32, (2, 3, 6, 6))

WRONG: dict[str, tuple[Any, type[Exception], str]] = {
    "window larger than the input": (
        lambda: ops.max_pool(X, 7),
        ValueError,
        r"kernel_shape \(7, 7\).*spatial axis 0 has 6",
    ),
    "dilated window too large": (lambda: ops.average_pool(X, 3, dilations=3), ValueError, "dilations"),
    "kernel of other rank": (
        lambda: ops.max_pool(X, (2,)),
        ValueError,
        "must be an int of at least 1, or 2",
    ),
    "stride 0": (
        lambda: ops.max_pool(X, 2, strides=0),
        ValueError,
        "strides must be an int of at least 1",
    ),
    "negative pads": (
        lambda: ops.max_pool(X, 2, pads=-1),
        ValueError,
        "pads must be an int of at least 0",
    ),
    "pads beyond the window": (lambda: ops.max_pool(X, 2, pads=2), ValueError, "pads must be smaller than the window"),
    "float kernel": (lambda: ops.max_pool(X, 2.0), TypeError, "kernel_shape must be an int"),
    "no spatial axis": (
        lambda: ops.max_pool(input("x", np.float32, (2, 3)), 1),
        ValueError,
        "spatial axes, got float32",
    ),
    "ops take tuples": (lambda: apply(OPS["MaxPool"]((2,), (1,)), X), ValueError, r"kernel_shape \(2,\) takes batch"),
    "no kernel": (lambda: OPS["MaxPool"](()), ValueError, "kernel_shape"),
    "average of ints": (
        lambda: ops.average_pool(X.astype(np.int32), 2),
        TypeError,
        "AveragePool is not defined for int32",
    ),
    "max of bools": (lambda: ops.max_pool(X > 0, 2), TypeError, "MaxPool is not defined for bool"),
    "global of features": (lambda: ops.global_average_pool(X[:, :, 0, 0]), ValueError, "spatial axis, got float32"),
    "global of ints": (lambda: ops.global_max_pool(X.astype(np.int32)), ValueError, "takes floats"),
}


@pytest.mark.parametrize("what", WRONG)
def test_impossible_geometry_names_the_argument(what: str) -> None:
    build, error, message = WRONG[what]
    with pytest.raises(error, match=message):
        build()


def test_windows_that_hold_nothing_but_padding_are_an_error_when_the_graph_runs() -> None:
    x = input("x", np.float32, ("batch", 1, "width"))
    for y in (ops.max_pool(x, 2, pads=1, dilations=3), ops.average_pool(x, 2, pads=1, dilations=3)):
        program = compile_graph(Graph((x,), {"y": y}))
        assert program.run({"x": np.ones((1, 1, 3), np.float32)}, {})["y"].shape == (1, 1, 2)
        with pytest.raises(ValueError, match="nothing but padding"):
            program.run({"x": np.ones((1, 1, 2), np.float32)}, {})


def test_an_input_too_small_for_the_window_is_an_error_when_the_graph_runs() -> None:
    x = input("x", np.float32, ("batch", 1, "width"))
    program = compile_graph(Graph((x,), {"y": ops.max_pool(x, 4)}))
    with pytest.raises(ValueError, match="kernel_shape"):
        program.run({"x": np.ones((1, 1, 2), np.float32)}, {})


def test_what_onnx_runtime_would_compute_differently_is_not_exported() -> None:
    symbolic = read_model(
        model("MaxPool", (1, 1, "n"), {"kernel_shape": (2,), "strides": (2,), "auto_pad": "SAME_UPPER"})
    )
    (pads,) = (value.op.attributes()["pads"] for value in symbolic.graph.values if value.operands)
    x = input("x", np.float32, (1, 1, "n"))
    dilated = apply(OPS["MaxPool"]((2,), (2,), tuple(pads), (2,)), input("x", np.float32, (1, 1, "n")))
    for y, reason in (
        (dilated, "chooses pads of its own"),
        (ops.max_pool(x, 2, pads=2, dilations=2), "takes pads below kernel_shape"),
    ):
        with pytest.raises(ValueError, match=reason):
            lower(Graph((x,), {"y": y}), {})


def test_a_window_left_out_by_ceil_mode_needs_opset_22() -> None:
    x = input("x", np.float32, (1, 1, 5))
    graph = Graph((x,), {"y": ops.max_pool(x, 2, 2, 1, ceil_mode=True)})
    with pytest.raises(ValueError, match="before opset 22"):
        lower(graph, {})
    exported = lower(graph, {}, opset=22)
    onnx.checker.check_model(exported, full_check=True)
    close(Session(exported).run(np.arange(5.0).reshape(1, 1, 5)), [[[0.0, 2.0, 4.0]]], 0)


def test_column_major_indices_count_the_first_spatial_axis_fastest() -> None:
    shape = (2, 3, 4, 5, 3)
    window = {"kernel_shape": (2, 3, 2), "strides": (2, 1, 1)}
    rows, columns = (
        read_model(model("MaxPool", shape, {**window, "storage_order": order}, 2)).graph for order in (0, 1)
    )
    x = np.random.default_rng(4).normal(size=shape).astype(np.float32)
    by_rows, by_columns = (run(list(graph.outputs.values()), {"x": x})[1] for graph in (rows, columns))
    n, c, h, w, d = np.unravel_index(by_rows, shape)
    np.testing.assert_array_equal(by_columns, ((((n * 3 + c) * 3 + d) * 5 + w) * 4 + h))


def test_one_node_gives_maxima_and_indices() -> None:
    read = read_model(model("MaxPool", (1, 1, 4), {"kernel_shape": (2,)}, 2))
    maxima, indices = read.graph.outputs.values()
    assert (maxima.op.name, indices.op.name) == ("MaxPool", "MaxPoolIndices")
    exported = lower(read.graph, {})
    assert [node.op_type for node in exported.graph.node] == ["MaxPool", "MaxPool"]
    onnx.checker.check_model(exported, full_check=True)
