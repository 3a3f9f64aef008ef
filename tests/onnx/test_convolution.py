"""Convolutions in ONNX models: how padding is read and written."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from lora_graph import LoadError, ops
from lora_graph.interpret import compile_graph
from lora_graph.ir import Graph, apply, dim
from lora_graph.onnx import Session, lower, read_model
from lora_graph.ops.convolution import ConvTranspose
from lora_graph.ops.windows import same_pads
from tests.reference import close

DRAWN = 72


def model_of(op: str, attributes: Any, x: Any, w: Any) -> Any:
    """A model of one node."""
    node = helper.make_node(op, ["x", "w", "b"], ["y"], **attributes)
    shapes = (("x", x), ("w", w), ("b", (2,)), ("y", [None] * len(w)))
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes]
    graph = helper.make_graph([node], "model", infos[:3], infos[3:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


@pytest.mark.parametrize("op", ["Conv", "ConvTranspose"])
@pytest.mark.parametrize("named", [False, True], ids=["sizes", "named"])
def test_auto_pad_is_read_as_onnx_runtime_runs_it(op: str, named: bool) -> None:
    for seed in range(DRAWN):
        rng = np.random.default_rng((seed, 5))
        axes = int(rng.integers(1, 3))
        mode = ("SAME_UPPER", "SAME_LOWER", "VALID", "NOTSET")[seed % 4]
        attributes: dict[str, Any] = {"strides": rng.integers(1, 4, axes).tolist(), "auto_pad": mode}
        kernel, size = rng.integers(1, 5, axes).tolist(), rng.integers(4, 9, axes).tolist()
        if op == "ConvTranspose" and seed % 3 == 0:
            reached = [(n - 1) * s + k for n, s, k in zip(size, attributes["strides"], kernel, strict=True)]
            attributes["output_shape"] = [n - int(rng.integers(0, 3)) or n for n in reached]
        x, w = (2, 2, *size), (2, 2, *kernel)
        declared = ("n", 2, *(f"s{i}" for i in range(axes))) if named else x
        model = model_of(op, attributes, declared, w)
        feeds = {n: rng.standard_normal(s).astype(np.float32) for n, s in zip("xwb", (x, w, 2), strict=True)}
        read = read_model(model.SerializeToString())
        written = lower(read.graph, read.state)
        onnx.checker.check_model(written, full_check=True)
        with Session(model) as first, Session(written) as second:
            expected, again = first.run(feeds), second.run(feeds)
        for found in (compile_graph(read.graph).run(feeds, read.state)["y"], again):
            assert found.shape == expected.shape, (op, attributes, x, w)
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4, err_msg=f"{op} {attributes} {x} {w}")


def test_symbolic_same_pads_are_written_as_the_rule_they_come_from() -> None:
    x, w = ops.input("x", "float32", ("batch", 2, "height", "width")), ops.input("w", "float32", (2, 2, 3, 3))
    for upper, mode in ((True, b"SAME_UPPER"), (False, b"SAME_LOWER")):
        y = ops.conv(x, w, strides=2, pads=same_pads(x.shape[2:], (3, 3), (2, 2), (1, 1), upper))
        assert str(y.type) == "float32[batch, 2, ((height+1)//2), ((width+1)//2)]"
        graph = Graph((x, w), {"y": y})
        model = lower(graph, {})
        (node,) = model.graph.node
        assert next(a.s for a in node.attribute if a.name == "auto_pad") == mode
        assert read_model(model.SerializeToString()).graph == graph


@pytest.mark.parametrize("dilation", [1, 2])
def test_symbolic_pads_of_any_kind_run_in_onnx_runtime(dilation: int) -> None:
    """Where ONNX, or ONNX Runtime, has no attribute for them: a Pad node beside the convolution."""
    height = dim("height")
    x, w, b = (ops.input(n, "float32", s) for n, s in (("x", (2, 2, height)), ("w", (2, 2, 3)), ("b", (2,))))
    same, rest = same_pads((height,), (3,), (2,), (dilation,)), height - height // 2 * 2
    outputs = {
        "same": ops.conv(x, w, b, strides=2, pads=same, dilations=dilation),
        "half": ops.conv(x, w, b, pads=(height // 2, 1), dilations=dilation),
        "cut": apply(ConvTranspose((3,), (height // 3, 1), (dilation,), (0,)), x, w, b),
        "more": apply(ConvTranspose((3,), (0, 0), (dilation,), (rest,)), x, w, b),
    }
    graph = Graph((x, w, b), outputs)
    model = lower(graph, {})
    onnx.checker.check_model(model, full_check=True)
    for size in (4, 5):
        rng = np.random.default_rng(size)
        shapes = (2, 2, size), (2, 2, 3), 2
        feeds = {n: rng.standard_normal(s).astype(np.float32) for n, s in zip("xwb", shapes, strict=True)}
        with Session(model) as session:
            theirs = session.run(feeds)
        for name, found in compile_graph(graph).run(feeds, {}).items():
            close(found, theirs[name], 1e-5)


@pytest.mark.parametrize(
    ("op", "attributes", "message"),
    [
        ("Conv", {"kernel_shape": [2]}, r"kernel_shape \[2\] is not that of the kernel float32\[2, 2, 3\]"),
        ("Conv", {"auto_pad": "SAME"}, "auto_pad is NOTSET, VALID, SAME_UPPER or SAME_LOWER, not 'SAME'"),
        ("Conv", {"pads": [-1, 0]}, r"pads must be 2 ints of at least 0, got \[-1, 0\]"),
        ("ConvTranspose", {"output_shape": [9]}, r"output_shape must be at most \[7\] plus output_padding, got \[9\]"),
    ],
)
def test_nodes_that_make_no_sense_are_refused(op: str, attributes: Any, message: str) -> None:
    with pytest.raises(LoadError, match=message):
        read_model(model_of(op, attributes, (1, 2, 5), (2, 2, 3)).SerializeToString())
