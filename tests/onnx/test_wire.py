"""Messages written piece by piece are what protobuf itself writes."""

from __future__ import annotations

import io

import numpy as np
import onnx
import pytest

from lora_graph.onnx.wire import fill, write_model


def model(*names: str) -> onnx.ModelProto:
    nodes = [onnx.helper.make_node("Identity", ["x"], ["y"])]
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n"]) for name in "xy"]
    graph = onnx.helper.make_graph(nodes, "g", ends[:1], ends[1:])
    for name in names:
        graph.initializer.append(onnx.TensorProto(name=name, data_type=onnx.TensorProto.FLOAT, dims=[2]))
    return onnx.helper.make_model(graph, producer_name="é", doc_string="d" * 300)


@pytest.mark.parametrize("sizes", [(), (0,), (1,), (31, 32), (127, 128, 129), (70_000, 3, 2**21)])
def test_the_message_is_that_of_protobuf(sizes: tuple[int, ...], rng: np.random.Generator) -> None:
    names = [f"w{i}" for i in range(len(sizes))]
    made, data = (
        model(*names, "left"),
        {n: rng.standard_normal(s).astype("f4") for n, s in zip(names, sizes, strict=True)},
    )
    made.graph.initializer[-1].raw_data = b"12345678"
    file = io.BytesIO()
    write_model(file, made, data)
    fill(made, data)
    read = onnx.ModelProto.FromString(file.getvalue())
    assert read == made
    assert file.getvalue() == made.SerializeToString()
    for name, tensor in zip(names, read.graph.initializer, strict=False):
        assert tensor.raw_data == data[name].tobytes()


def test_arrays_of_any_layout_and_byte_order() -> None:
    data = {"a": np.arange(6, dtype=">f4").reshape(2, 3).T, "b": np.arange(8, dtype="f4")[::4]}
    file = io.BytesIO()
    write_model(file, model(*data), data)
    first, second = onnx.ModelProto.FromString(file.getvalue()).graph.initializer
    assert first.raw_data == np.array([0, 3, 1, 4, 2, 5], "<f4").tobytes()
    assert second.raw_data == np.array([0, 4], "<f4").tobytes()
