"""Convolutions against ONNX Runtime, plain loops and PyTorch, over geometries drawn at random."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lora_graph import ops
from lora_graph.autodiff import gradients
from lora_graph.interpret import compile_graph
from lora_graph.ir import Graph, apply, dim
from lora_graph.onnx import Session, lower, read_model
from lora_graph.ops.windows import same_pads
from tests.op_rows.convolution_formulas import convolved
from tests.ops.convolution_geometry import Geometry, draw
from tests.reference import close

DRAWN = 150
"""Geometries each of these tests goes through."""

drawn = pytest.mark.parametrize("transpose", [False, True], ids=["Conv", "ConvTranspose"])


@drawn
@pytest.mark.parametrize("named", [False, True], ids=["sizes", "named"])
def test_onnx_runtime_and_the_formula_agree(transpose: bool, named: bool) -> None:
    for seed in range(DRAWN):
        geometry = draw(seed, transpose=transpose)
        leaves, feeds = geometry.leaves("float32", named=named), geometry.feeds("float32")
        graph = Graph(tuple(leaves), {"y": apply(geometry.op, *leaves)})
        truth = geometry.formula(*feeds.values())
        model = lower(graph, {})
        with Session(model) as session:
            theirs = session.run(feeds)
        for found in (compile_graph(graph).run(feeds, {})["y"], theirs):
            check(found, truth, 1e-5, geometry)
        assert read_model(model.SerializeToString()).graph == graph, geometry


def check(found: Any, truth: Any, tolerance: float, about: object) -> None:
    assert found.shape == truth.shape, about
    assert np.abs(found - truth).max(initial=0) <= tolerance * max(1.0, np.abs(truth).max(initial=0)), about


@drawn
def test_out_of_any_layout_receives_the_result(transpose: bool) -> None:
    for seed in range(30):
        geometry = draw(seed, transpose=transpose)
        arrays = geometry.feeds("float64").values()
        truth = geometry.formula(*arrays)
        for out in (np.full(truth.shape, 7.0), np.full(truth.shape[::-1], 7.0).T):
            geometry.op.evaluate(*arrays, out=out)
            check(out, truth, 1e-12, geometry)


@pytest.mark.parametrize("sizes", [(5, 4), (6, 7), (9, 4)])
@pytest.mark.parametrize("mode", ["SAME_UPPER", "SAME_LOWER", "pads"])
def test_named_sizes_are_bound_when_it_runs(sizes: tuple[int, int], mode: str) -> None:
    """One graph of values and gradients, for images of any size; the gradients against those of a graph of ints."""
    spatial, kernel, strides = (dim("height"), dim("width")), (3, 2), (2, 3)
    graph = value_and_gradients(("batch", 2, *spatial), mode, kernel, strides)
    program = compile_graph(graph)
    rng = np.random.default_rng(sizes)
    feeds = {"x": rng.standard_normal((2, 2, *sizes)), "w": rng.standard_normal((4, 1, *kernel))}
    static = value_and_gradients((2, 2, *sizes), mode, kernel, strides)
    c = rng.standard_normal(static.outputs["y"].shape)  # type: ignore[arg-type]
    found, expected = (p.run({**feeds, "c": c}, {}) for p in (program, compile_graph(static)))
    pads: Any = (1, 0, 0, 2) if mode == "pads" else same_pads(sizes, kernel, strides, (1, 1), mode == "SAME_UPPER")
    close(found["y"], convolved(strides, pads, (1, 1), 2)(feeds["x"], feeds["w"]), 1e-12)
    for name in ("dx", "dw"):
        close(found[name], expected[name], 1e-12)
    if mode != "pads":
        assert found["y"].shape[2:] == tuple(-(-size // stride) for size, stride in zip(sizes, strides, strict=True))


def value_and_gradients(shape: Any, mode: str, kernel: Any, strides: Any) -> Graph:
    x, w = ops.input("x", "float64", shape), ops.input("w", "float64", (4, 1, *kernel))
    pads = (1, 0, 0, 2) if mode == "pads" else same_pads(x.shape[2:], kernel, strides, (1, 1), mode == "SAME_UPPER")
    y = ops.conv(x, w, strides=strides, pads=pads, group=2)
    c = ops.input("c", "float64", y.shape)
    dx, dw = gradients(y, [x, w], c)
    assert (dx.type, dw.type) == (x.type, w.type)
    return Graph((x, w, c), {"y": y, "dx": dx, "dw": dw})


def test_gradients_of_a_transpose_have_the_types_of_its_operands() -> None:
    x, w = ops.input("x", "float32", ("batch", 2, "height", "width")), ops.input("w", "float32", (2, 3, 3, 3))
    y = ops.conv_transpose(x, w, strides=2, pads=1, output_padding=1)
    assert str(y.type) == "float32[batch, 3, 2*height, 2*width]"
    found = gradients(y, [x, w], ops.input("c", "float32", y.shape))
    assert [g.type for g in found] == [x.type, w.type]


X, W = ("batch", 4, 5, 6), (6, 2, 3, 3)


@pytest.mark.parametrize(
    ("x", "w", "b", "attributes", "message"),
    [
        (X, (6, 2, 9, 3), None, {"pads": 1, "group": 2}, "reaches over 9 does not fit spatial axis 0, which has 5"),
        (X, W, None, {"dilations": (1, 4), "group": 2}, "reaches over 9 does not fit spatial axis 1, which has 6"),
        (X, W, None, {}, "x must have group (1) times as many channels as w: dimension 4 does not equal 2"),
        (X, (5, 2, 3, 3), None, {"group": 2}, "group must divide the outputs, but 5 is no multiple of 2"),
        (("batch", 4), W, None, {"group": 2}, "a sample has 3 axes, got float32[batch, 4]"),
        ((4, 5), (4, 5), None, {}, "over 0 spatial axes"),
        (X, W, (4,), {"group": 2}, "the bias float32[4] must have one element for each output"),
        (X, W, (6, 1), {"group": 2}, "the bias must be a vector, got float32[6, 1]"),
        (X, W, None, {"strides": (1, 0), "group": 2}, "strides must be an int of at least 1, or 2 of them, got (1, 0)"),
        (
            X,
            W,
            None,
            {"strides": (1, 1, 1), "group": 2},
            "or 2 of them, got (1, 1, 1)",
        ),
        (X, W, None, {"dilations": -1, "group": 2}, "dilations must be an int of at least 1, or 2 of them, got -1"),
        (X, W, None, {"pads": -1, "group": 2}, "pads must be an int of at least 0, or 2 of them, got -1"),
        (X, W, None, {"pads": (0, 0, 0, -1), "group": 2}, "pads must be 4 ints of at least 0"),
        (X, W, None, {"pads": (1, 1, 1), "group": 2}, "pads must be an int of at least 0, or 2 of them, got (1, 1, 1)"),
        (X, W, None, {"group": 0}, "group must be at least 1, got 0"),
    ],
)
def test_impossible_convolutions_are_refused(x: Any, w: Any, b: Any, attributes: Any, message: str) -> None:
    leaves = [None if s is None else ops.input(n, "float32", s) for n, s in zip("xwb", (x, w, b), strict=True)]
    with pytest.raises(ValueError) as caught:
        ops.conv(*leaves, **attributes)  # type: ignore[arg-type]
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("x", "w", "attributes", "message"),
    [
        ((2, 4, 5), (6, 2, 3), {}, "w must begin with the channels of x: dimension 4 does not equal 6"),
        ((2, 4, 5), (4, 2, 3), {"group": 3}, "group must divide the channels, but 4 is no multiple of 3"),
        ((2, 4, 2), (4, 2, 3), {"pads": 3}, "pads [3, 3] cut off more than there is, down to [-2]"),
        ((2, 4, 5), (4, 2, 3), {"strides": 2, "output_padding": 2}, "less than the stride of its axis ([2]), got [2]"),
        ((2, 4, 5), (4, 2, 3), {"output_padding": -1}, "output_padding must be an int of at least 0, got -1"),
    ],
)
def test_impossible_transposes_are_refused(x: Any, w: Any, attributes: Any, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        ops.conv_transpose(ops.input("x", "float32", x), ops.input("w", "float32", w), **attributes)
    assert message in str(caught.value)


def test_the_wrong_kind_of_thing_is_a_type_error() -> None:
    x, w = ops.input("x", "float32", (2, 4, 5)), ops.input("w", "float32", (6, 4, 3))
    for attributes, message in (
        ({"strides": 1.5}, "strides must be an int, or one for each spatial axis, got 1.5"),
        ({"dilations": True}, "dilations must be an int"),
        ({"pads": ("a", 0)}, "pads must be ints"),
        ({"group": 1.0}, "group must be an int, got 1.0"),
    ):
        with pytest.raises(TypeError, match=message):
            ops.conv(x, w, **attributes)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="floats of one dtype"):
        ops.conv(x, ops.input("w", "float64", (6, 4, 3)))
    with pytest.raises(TypeError, match="floats of one dtype"):
        ops.conv(x.astype(np.int64), w.astype(np.int64))


def test_a_weight_gradient_needs_a_position_for_each_window() -> None:
    x, y = ops.input("x", "float32", (2, 4, 5)), ops.input("y", "float32", (2, 3, 4))
    with pytest.raises(
        ValueError, match=r"a position for each of the \[3\] windows of x: dimension 4 does not equal 3"
    ):
        ops.conv_weight_gradient(x, y, (3,))


@pytest.mark.parametrize("stride", [1, 4])
def test_an_image_smaller_than_the_window_is_refused_when_it_runs(stride: int) -> None:
    x, w = ops.input("x", "float32", (1, 1, "width")), ops.input("w", "float32", (1, 1, 4))
    program = compile_graph(Graph((x, w), {"y": ops.conv(x, w, strides=stride)}))
    with pytest.raises(ValueError, match="a window that reaches over 4 does not fit spatial axis 0, which has 2"):
        program.run({"x": np.zeros((1, 1, 2)), "w": np.zeros((1, 1, 4))}, {})


@pytest.mark.torch
@drawn
def test_values_and_gradients_are_those_of_pytorch(transpose: bool) -> None:
    torch = pytest.importorskip("torch")
    for seed in range(DRAWN):
        geometry = draw(seed, transpose=transpose)
        feeds = geometry.feeds("float64")
        tensors = [torch.from_numpy(array).requires_grad_() for array in feeds.values()]
        y = in_pytorch(torch.nn.functional, geometry, *tensors)
        feeds["c"] = np.random.default_rng(seed).standard_normal(tuple(y.shape))
        theirs = [y, *torch.autograd.grad(y, tensors, torch.from_numpy(feeds["c"]))]
        leaves = geometry.leaves("float64")
        value = apply(geometry.op, *leaves)
        c = ops.input("c", "float64", value.shape)
        outputs = {str(i): v for i, v in enumerate((value, *gradients(value, leaves, c)))}
        mine = compile_graph(Graph((*leaves, c), outputs)).run(feeds, {})
        for found, expected in zip(mine.values(), theirs, strict=True):
            check(found, expected.detach().numpy(), 1e-11, geometry)


def in_pytorch(functional: Any, geometry: Geometry, x: Any, w: Any, bias: Any = None) -> Any:
    axes = len(geometry.strides)
    pairs = list(zip(geometry.pads[:axes], geometry.pads[axes:], strict=True))
    settings: Any = {"stride": geometry.strides, "dilation": geometry.dilations, "groups": geometry.group}
    if geometry.more is None:
        widths = [width for pair in pairs[::-1] for width in pair]
        return getattr(functional, f"conv{axes}d")(functional.pad(x, widths), w, bias, **settings)
    y = getattr(functional, f"conv_transpose{axes}d")(x, w, bias, output_padding=geometry.more, **settings)
    return y[(..., *(slice(p, n - q) for (p, q), n in zip(pairs, y.shape[2:], strict=True)))]
