"""Files made to break a reader: each is refused with a reason, or read, within half a gigabyte and without a crash."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.onnx.test_importer import ints, model_of, node

LIMIT = 512 * 2**20
SCRIPT = """
import json, os, resource, sys
import lora_graph as lg, lora_graph.onnx.export

def answer(path):
    held = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + {limit}, held + {limit}))
    resource.setrlimit(resource.RLIMIT_CPU, (4, 4))
    try:
        layer = lg.load_onnx(path)
        return " ".join(["read", *[str(kind) for kind in layer.outputs.values()]])
    except lg.LoadError as error:
        return f"LoadError {{error}}"

for line in sys.stdin:
    child = os.fork()
    if not child:
        print(json.dumps(answer(json.loads(line))), flush=True)
        os._exit(0)
    print("ended with", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.fixture(scope="module")
def reader() -> Iterator[subprocess.Popen[str]]:
    """A process that reads each file in a fork of itself, which has little memory and little time."""
    command = [sys.executable, "-c", SCRIPT.format(limit=LIMIT)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as process:  # type: ignore[call-overload]
        yield process
        process.stdin.close()


def outcome(model: onnx.ModelProto | bytes, folder: Path, reader: subprocess.Popen[str]) -> str:
    """What a fresh process with little memory says of the model."""
    path = folder / "model.onnx"
    path.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
    assert reader.stdin is not None
    assert reader.stdout is not None
    print(json.dumps(str(path)), file=reader.stdin, flush=True)
    said, end = reader.stdout.readline(), ""
    if said.startswith('"'):
        end = reader.stdout.readline()
    assert end == "ended with 0\n", f"{said}{end}"
    return str(json.loads(said))


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


def weight(dims: list[int], data: bytes = b"", kind: int = TensorProto.FLOAT) -> onnx.ModelProto:
    """x times a weight of which only these are written."""
    model = model_of([node("Mul", "x w", "y")], {"x": ["n", 2]}, ["y"], {"w": np.ones(2, np.float32)})
    tensor = model.graph.initializer[0]
    tensor.ClearField("dims")
    tensor.dims.extend(dims)
    tensor.raw_data, tensor.data_type = data, kind
    return model


def function(name: str, *calls: str) -> onnx.FunctionProto:
    """The functions ``calls``, one after the other."""
    names = ["a", *(f"t{i}" for i in range(len(calls) - 1)), "b"]
    nodes = [helper.make_node(call, [names[i]], [names[i + 1]], domain="d") for i, call in enumerate(calls)]
    return helper.make_function("d", name, ["a"], ["b"], nodes, [helper.make_opsetid("d", 1)])


def calling(*functions: onnx.FunctionProto) -> onnx.ModelProto:
    model = inner_model(helper.make_node(functions[0].name, ["x"], ["y"], domain="d"))
    model.opset_import.add(domain="d", version=1)
    model.functions.extend(functions)
    return model


def outside(location: str) -> onnx.ModelProto:
    model = weight([2])
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    return model


def noting(key: str, value: str) -> onnx.ModelProto:
    model = weight([2], b"\0" * 8)
    model.metadata_props.add(key=key, value=value)
    model.graph.node[0].metadata_props.add(key="pkg.torch.onnx.name_scopes", value=value)
    return model


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
    "a weight larger than memory": (lambda: weight([2**60, 2**60]), r"LoadError .*tensor 'w': dims .* there are 0"),
    "a size that overflows": (lambda: weight([2**33, 2**31]), "LoadError .*tensor 'w': dims .* there are 0"),
    "a negative size": (lambda: weight([-1]), r"LoadError .*tensor 'w': negative dims \[-1\]"),
    "a hundred thousand axes": (lambda: weight([1] * 10**5, b"\0" * 4), "LoadError .*tensor 'w': maximum supported"),
    "weights that are no numbers": (lambda: weight([2], b"\0\0\xc0\x7f" * 2), r"read float32\[n, 2\]"),
    "data of a system file": (
        lambda: outside("/etc/passwd"),
        "LoadError .*tensor 'w': external data must be a file ins",
    ),
    "data above the folder": (
        lambda: outside("../w.bin"),
        "LoadError .*tensor 'w': external data must be a file inside",
    ),
    "a function that calls itself": (lambda: calling(function("f", "f")), "LoadError .*'d::f' calls itself"),
    "functions that double": (
        lambda: calling(*(function(f"f{i}", f"f{i + 1}", f"f{i + 1}") for i in range(40)), function("f40", "f39")),
        "LoadError",
    ),
    "what repeats without end": (
        lambda: model_of([node("Tile", "x r", "y")], {"x": [2]}, ["y"], {"r": ints([2**60])}),
        rf"read float32\[{2**61}\]",
    ),
    "five thousand results": (
        lambda: model_of(
            [helper.make_node("Split", ["x"], [f"y{i}" for i in range(5000)], axis=0)],
            {"x": [5000]},
            ["y1"],
            opset=13,
        ),
        r"read float32\[1\]",
    ),
    "an equation of letters": (
        lambda: model_of([helper.make_node("Einsum", ["x"], ["y"], equation="a" * 10**6)], {"x": ["n"]}, ["y"]),
        "LoadError .{,1200}$",
    ),
    "metadata of brackets": (
        lambda: noting("lora_graph.parameters", "[" * 10**6),
        "LoadError .*model.onnx: .* not JSON",
    ),
    "adapters of brackets": (lambda: noting("lora_graph.adapters", "[" * 10**6), "LoadError .*model.onnx: .* not JSON"),
    "scopes that compute": (lambda: noting("k", "[9**9**9**9]"), r"read float32\[n, 2\]"),
}


@pytest.mark.skipif(sys.platform != "linux", reason="the limit on memory is Linux's")
@pytest.mark.parametrize("what", HOSTILE)
def test_it_is_refused_or_read_within_the_limits(what: str, tmp_path: Path, reader: subprocess.Popen[str]) -> None:
    make, wanted = HOSTILE[what]
    said = outcome(make(), tmp_path, reader)
    assert re.match(wanted, said), said[:500]
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
