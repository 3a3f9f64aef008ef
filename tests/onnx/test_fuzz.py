"""Models changed at random, in their bytes and in their parts: each is read, or refused with a LoadError."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import lora_graph as lg
from lora_graph.ir.op import OPS
from tests.train.transformer import Encoder

COUNT = 150
NUMBERS = [-1, 0, 1, 2, 3, 7, 2**31, 2**40, 2**63 - 1, -(2**63)]
SIZES = ["", "a", "a*b", "1//0", "(", "-3", "a-a", "a//0", "min(a,b)", "a**9", "'"]
ATTRIBUTES = ["axis", "axes", "perm", "to", "group", "pads", "value", "kernel_shape", "equation", "mode", "keepdims"]
SCRIPT = """
import sys
import lora_graph as lg
from pathlib import Path
for path in sorted(Path(sys.argv[1]).iterdir()):
    try:
        print(path.name, "read", list(lg.load_onnx(path).outputs))
    except lg.LoadError as error:
        print(path.name, "LoadError", len(str(error)))
"""


def models() -> dict[str, bytes]:
    """A transformer as we write it, and a convolution as others may."""
    convolution = [
        helper.make_node("Conv", ["x", "w", "b"], ["h"], pads=[1, 1, 1, 1], group=2),
        helper.make_node("Shape", ["h"], ["s"], start=0, end=2),
        helper.make_node("Concat", ["s", "rest"], ["t"], axis=0),
        helper.make_node("Reshape", ["h", "t"], ["r"]),
        helper.make_node("Softmax", ["r"], ["p"], axis=-1),
        helper.make_node("ReduceMean", ["p", "last"], ["y"], keepdims=0),
    ]
    arrays = {
        "w": np.ones((4, 1, 3, 3), np.float32),
        "b": np.zeros(4, np.float32),
        "rest": np.asarray([-1]),
        "last": np.asarray([2]),
    }
    graph = helper.make_graph(
        convolution,
        "images",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", 2, "height", "width"])],
        [helper.make_empty_tensor_value_info("y")],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    foreign = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    own = lg.export_onnx(lg.adapt(Encoder(), targets=["query_1", "head"], rank=1, rng=0))
    for model in (own, foreign):
        assert lg.load_onnx(model).outputs
    return {"own": own.SerializeToString(), "foreign": foreign.SerializeToString()}


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    """Cut off, with a part left out, with bytes put in, or with some exchanged, outside of the weights."""
    plain = np.ones(len(content), bool)
    for tensor in onnx.load_from_string(content).graph.initializer:
        start = content.find(tensor.raw_data)
        plain[start : start + len(tensor.raw_data)] = len(tensor.raw_data) < 64
    places = np.flatnonzero(plain)
    bytes_ = bytearray(content)
    match rng.integers(4):
        case 0:
            del bytes_[rng.choice(places) :]
        case 1:
            start = rng.choice(places)
            del bytes_[start : start + rng.integers(1, 100)]
        case 2:
            start = rng.choice(places)
            bytes_[start:start] = rng.bytes(rng.integers(1, 9))
        case 3:
            for place in rng.choice(places, rng.integers(1, 6)):
                bytes_[place] = rng.integers(256)
    return bytes(bytes_)


def changed(content: bytes, rng: np.random.Generator) -> bytes:
    """With other ops, operands, attributes, sizes and types, each of a kind that there is."""
    model = onnx.load_from_string(content)
    for _ in range(rng.integers(1, 4)):
        _change(model, rng)
    return model.SerializeToString()


def _change(model: onnx.ModelProto, rng: np.random.Generator) -> None:
    graph = model.graph
    node, tensor, item = (rng.choice(list(of)) for of in (graph.node, graph.initializer, graph.input))
    number = int(rng.choice(NUMBERS))
    match rng.integers(9):
        case 0:
            node.op_type = str(rng.choice(sorted(OPS)))
        case 1 if node.input:
            names = [name for other in graph.node for name in (*other.input, *other.output)]
            node.input[rng.integers(len(node.input))] = str(rng.choice([*names, "", "nowhere"]))
        case 2:
            values = number if rng.random() < 0.5 else [number] * int(rng.integers(1, 5))
            node.attribute.append(helper.make_attribute(str(rng.choice(ATTRIBUTES)), values))
        case 3 if node.attribute:
            attribute = rng.choice(list(node.attribute))
            attribute.i, attribute.type = number, int(rng.integers(15))
        case 4 if tensor.dims:
            tensor.dims[rng.integers(len(tensor.dims))] = number
        case 5:
            tensor.data_type = int(rng.integers(24))
        case 6:
            size = rng.choice(list(item.type.tensor_type.shape.dim))
            size.dim_param = str(rng.choice(SIZES))
        case 7:
            item.type.tensor_type.elem_type = int(rng.integers(24))
        case 8 if len(graph.node) > 1:
            graph.node.remove(node)


@pytest.mark.parametrize("kind", ["own", "foreign"])
@pytest.mark.parametrize("change", [damaged, changed], ids=["bytes", "parts"])
def test_it_is_read_or_refused(kind: str, change: object, tmp_path: Path) -> None:
    content = models()[kind]
    for seed in range(COUNT):
        (tmp_path / f"{seed:03}.onnx").write_bytes(change(content, np.random.default_rng(seed)))  # type: ignore[operator]
    before = sorted(path.name for path in tmp_path.iterdir())
    done = subprocess.run([sys.executable, "-c", SCRIPT, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-300:] + done.stderr
    said = [line.split() for line in done.stdout.splitlines()]
    assert [line[0] for line in said] == before
    refused = [int(line[2]) for line in said if line[1] == "LoadError"]
    assert COUNT // 2 < len(refused) < COUNT
    assert max(refused) < 1500
    assert sorted(path.name for path in tmp_path.iterdir()) == before


@pytest.mark.parametrize("size", ["-3", "2-5", "1//0"])
def test_a_size_that_is_none(size: str) -> None:
    model = onnx.load_from_string(models()["own"])
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = size
    with pytest.raises(lg.LoadError, match=r"the model: input 'ids': (a dimension cannot be negative|cannot read)"):
        lg.load_onnx(model)
