"""Files made to break a reader: each is refused with a reason, or read, within half a gigabyte and without a crash."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.onnx.test_importer import ints, model_of, node

LIMIT = 512 * 2**20
SCRIPT = """
import resource, sys
import lora_graph as lg, lora_graph.onnx.export
held = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (held + {limit}, held + {limit}))
resource.setrlimit(resource.RLIMIT_CPU, (20, 20))
try:
    layer = lg.load_onnx(sys.argv[1])
    print("read", *[str(kind) for kind in layer.outputs.values()])
except lg.LoadError as error:
    print("LoadError", error)
"""


def outcome(model: onnx.ModelProto | bytes, folder: Path) -> str:
    """What a fresh process with little memory says of the model."""
    path = folder / "model.onnx"
    path.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
    command = [sys.executable, "-c", SCRIPT.format(limit=LIMIT), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def nested(depth: int) -> onnx.ModelProto:
    """``If`` in ``If`` in ``If`` …"""
    inner = helper.make_node("Relu", ["x"], ["y"])
    for _ in range(depth):
        graph = helper.make_graph([inner], "g", [], [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n"])])
        inner = helper.make_node("If", ["flag"], ["y"], then_branch=graph, else_branch=graph)
    return inner_model(inner)


def narrow(depth: int) -> bytes:
    """``If`` in ``If`` … with one branch each, so that the file stays small however deep it is."""
    inner = helper.make_node("Relu", ["x"], ["y"]).SerializeToString()

    def field(number: int, content: bytes) -> bytes:
        size, head = len(content), bytes([number << 3 | 2])
        while size > 127:
            head, size = head + bytes([size & 127 | 128]), size >> 7
        return head + bytes([size]) + content

    for _ in range(depth):
        attribute = field(1, b"then_branch") + field(6, field(1, inner)) + bytes([0xA0, 0x01, 5])
        inner = field(2, b"y") + field(4, b"If") + field(5, attribute)
    model = inner_model(helper.make_node("Relu", ["x"], ["y"]))
    model.graph.ClearField("node")
    return model.SerializeToString() + field(7, field(1, inner))


def inner_model(only: onnx.NodeProto) -> onnx.ModelProto:
    model = model_of([only], {"x": ["n"]}, ["y"], {"flag": np.asarray(True)})
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n"]))
    return model


def vast(*nodes: onnx.NodeProto) -> onnx.ModelProto:
    sizes = {"s": ints([2**60, 2**60]), "one": ints([1]), "far": ints([2**62]), "zero": ints([0])}
    return model_of(list(nodes), {"x": [2**60]}, ["y"], sizes)


def long_name() -> onnx.ModelProto:
    model = model_of([node("Relu", "x", "y")], {"x": ["n"]}, ["y"])
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "(" * 10**5
    return model


def many_nodes() -> onnx.ModelProto:
    nodes = [helper.make_node("Relu", [f"t{i}"], [f"t{i + 1}"]) for i in range(3000)]
    return model_of(nodes, {"t0": ["n"]}, ["t3000"])


def doubling() -> onnx.ModelProto:
    """Concat of a thing with itself, sixty times: small to write and huge to run."""
    nodes = [helper.make_node("Concat", [f"t{i}"] * 2, [f"t{i + 1}"], axis=0) for i in range(60)]
    return model_of(nodes, {"t0": [1]}, ["t60"])


def spread() -> onnx.ModelProto:
    nodes = [
        helper.make_node("ConstantOfShape", ["s"], ["z"], value=numpy_helper.from_array(ints([7]))),
        helper.make_node("Add", ["z", "far"], ["y"]),
    ]
    return vast(*nodes)


HOSTILE: dict[str, tuple[Callable[[], onnx.ModelProto | bytes], str]] = {
    "ten branches deep": (lambda: nested(10), r"read float32\[n\]"),
    "thirty branches deep": (lambda: narrow(28), "LoadError .*'else_branch' is missing in If"),
    "a thousand branches deep": (lambda: narrow(1000), "LoadError .*not an ONNX model"),
    "an input larger than memory": (lambda: vast(node("Relu", "x", "y")), rf"read float32\[{2**60}\]"),
    "a constant larger than memory": (spread, rf"read int64\[{2**60}, {2**60}\]"),
    "a range larger than memory": (
        lambda: model_of(
            [helper.make_node("Range", ["zero", "far", "one"], ["y"])],
            {"x": ["n"]},
            ["y"],
            {"zero": ints(0), "far": ints(2**62), "one": ints(1)},
        ),
        "(LoadError|read)",
    ),
    "padding larger than memory": (
        lambda: model_of([node("Pad", "x p", "y")], {"x": [1]}, ["y"], {"p": ints([2**60, 2**60])}),
        "(LoadError|read)",
    ),
    "what doubles sixty times": (doubling, rf"read float32\[{2**60}\]"),
    "a name of parentheses": (long_name, "read float32"),
    "a chain of nodes": (many_nodes, "read float32"),
}


@pytest.mark.skipif(sys.platform != "linux", reason="the limit on memory is Linux's")
@pytest.mark.parametrize("what", HOSTILE)
def test_it_is_refused_or_read_within_the_limits(what: str, tmp_path: Path) -> None:
    make, wanted = HOSTILE[what]
    said = outcome(make(), tmp_path)
    assert re.match(wanted, said), said[:500]
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
