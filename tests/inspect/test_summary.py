"""Models at a glance: what they are made of, module by module, counted by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import lora_graph as lg
from lora_graph.inspect.inspected import Inspected
from lora_graph.inspect.modules import ROWS, owners
from lora_graph.inspect.summary import mix
from lora_graph.ir import Graph, input, parameter  # noqa: A004
from lora_graph.ir.graph import Note
from lora_graph.onnx import read_model
from tests.onnx.forms.models import adapted, convolutional, dense
from tests.onnx.test_opaque import unknown_op


def test_a_model_with_adapters(rng: np.random.Generator) -> None:
    model = adapted(dense(rng), "lora", rng)
    found = lg.summarize(model, sizes={"batch": 3})
    assert found.model == "AdaptedSequential"
    assert found.opset is None
    assert found.inputs == {"x": "float32[batch, 12]"}
    assert found.outputs == {"y": "float32[batch, 10]"}
    assert found.binding == {"batch": 3}
    assert found.ops == {"MatMul": 6, "Add": 4, "Mul": 2, "Relu": 1, "Transpose": 1}
    first, second = 12 * 16 + 16, 16 * 10 + 10
    pairs = 2 * (12 + 16), 2 * (16 + 10)
    assert found.parameters.total == first + second + sum(pairs)
    assert found.parameters.trainable == found.parameters.adapter == sum(pairs)
    assert found.weight_bytes == 4 * found.parameters.total
    assert [(a["family"], a["rank"], a["alpha"]) for a in found.adapters] == [("lora", 2, 3.0)]
    costs = {module.name: module.cost.flops for module in found.modules}
    assert costs == {
        "base.0": 3 * (2 * 12 * 16 + 3 * 16),  # x W, what is added, the bias, relu
        "base.1": 3 * (2 * 16 * 10 + 2 * 10),
        "default.lora_0_weight": 3 * (2 * 12 * 2 + 2 * 2 * 16 + 16),  # two products, the scale
        "default.lora_1_weight": 3 * (2 * 16 * 2 + 2 * 2 * 10 + 10),
    }
    assert sum(costs.values()) == found.cost.flops
    assert [module.parameters.total for module in found.modules] == [first, second, *pairs]
    assert sum(found.share(module) for module in found.modules) == pytest.approx(1)


def test_a_file_of_every_form_has_an_opset(rng: np.random.Generator, tmp_path: Path) -> None:
    lg.export_onnx(adapted(dense(rng), "lora", rng), tmp_path / "m.onnx", opset=23)
    found = lg.summarize(tmp_path / "m.onnx")
    assert (found.model, found.opset) == (str(tmp_path / "m.onnx"), 23)
    assert found.parameters.adapter == 2 * (12 + 16) + 2 * (16 + 10)
    assert found.ops == {"Gemm": 4, "MatMul": 2, "Relu": 1}


def test_depth_joins_modules(rng: np.random.Generator) -> None:
    model = adapted(convolutional(rng), "lora", rng)
    fine, coarse, one = (lg.summarize(model, depth=depth) for depth in (2, 1, 0))
    assert [module.name for module in coarse.modules] == ["base", "default"]
    assert [module.name for module in one.modules] == [""]
    for found in (fine, coarse, one):
        assert sum(module.cost.bytes for module in found.modules) == found.cost.bytes
        assert sum(module.parameters.total for module in found.modules) == found.parameters.total
        assert sum(sum(module.ops.values()) for module in found.modules) == sum(found.ops.values())
    with pytest.raises(ValueError, match="depth must be at least 0, got -1"):
        lg.summarize(model, depth=-1)


def test_modules_are_told_apart_as_long_as_there_are_few() -> None:
    x = input("x", "float32", (4,))
    value, notes = x, {}
    for block in range(ROWS // 2):
        for part in ("first", "second", "third"):
            value = value.tanh() if part == "first" else value.exp()
            notes[value] = Note(scope=f"net.{block}.{part}")
    found = lg.summarize(Graph((x,), {"y": value}, notes))
    assert [module.name for module in found.modules] == [f"net.{block}" for block in range(ROWS // 2)]
    assert found.modules[0].ops == {"Exp": 2, "Tanh": 1}
    deep = lg.summarize(Graph((x,), {"y": value}, notes), depth=3)
    assert [module.name for module in deep.modules[:3]] == ["net.0.first", "net.0.second", "net.0.third"]


def test_the_modules_of_one_stand_together() -> None:
    x = input("x", "float32", (4,))
    parts = ["a.x", "b", "a", "a.y", "c"]
    value, notes = x, {}
    for path in parts:
        value = value.exp()
        notes[value] = Note(scope=path)
    found = lg.summarize(Graph((x,), {"y": value}, notes))
    assert [module.name for module in found.modules] == ["a", "a.x", "a.y", "b", "c"]


def test_parameters_belong_where_their_name_or_their_user_is() -> None:
    x = input("x", "float32", ("batch", 4))
    weight, other, free = (parameter(name, "float32", (4, 4)) for name in ("fc.weight", "val_3", "elsewhere.w"))
    first = x @ weight
    second = first @ other.T
    y = second @ free
    notes = {
        first: Note(scope="fc"),
        other.T: Note(scope="gate"),
        second: Note(scope="gate"),
        y: Note(scope="out.last"),
    }
    graph = Graph((x,), {"y": y}, notes)
    assert owners(graph) == {"fc.weight": "fc", "val_3": "gate", "elsewhere.w": "out.last"}


def test_ops_that_are_not_known_are_told() -> None:
    found = lg.summarize(unknown_op())
    assert found.uncounted == {"Unique": 1}
    assert found.ops == {"Neg": 1, "Unique": 1}
    assert found.to_dict()["uncounted"] == {"Unique": 1}


def test_everything_is_plain_data(rng: np.random.Generator) -> None:
    found = lg.summarize(adapted(dense(rng), "lora", rng))
    plain = json.loads(json.dumps(found.to_dict()))
    assert plain.keys() == {
        *("model", "opset", "inputs", "outputs", "sizes", "ops", "parameters", "weight_bytes", "adapters", "cost"),
        *("uncounted", "modules"),
    }
    assert plain["cost"] == {
        "flops": found.cost.flops,
        "bytes_read": found.cost.read,
        "bytes_written": found.cost.written,
        "bytes": found.cost.bytes,
        "intensity": found.cost.intensity,
        "peak_activation_bytes": found.peak,
    }
    assert [module["name"] for module in plain["modules"]] == [module.name for module in found.modules]


def test_a_summary_is_readable(rng: np.random.Generator) -> None:
    text = str(lg.summarize(lg.DenseLayer(12, 16, "relu", rng=rng)))
    assert text.splitlines() == [
        "DenseLayer: float32[batch, 12] -> float32[batch, 16]",
        "3 ops: Add, MatMul, Relu",
        "208 parameters, 208 train, 0 of adapters",
        "416 FLOP, 1.17 KiB moved, 0.35 FLOP/byte, 64 B of activations (at batch = 1)",
        "  (model): Add, MatMul, Relu; 208 parameters, 416 FLOP, 100.0%",
    ]


def test_words_for_ops() -> None:
    assert mix({}) == "no ops"
    assert mix({"MatMul": 3, "Add": 1}) == "3 MatMul, Add"
    assert mix({"MatMul": 3, "Add": 1, "Mul": 1}, 2) == "3 MatMul, Add, …"


def test_a_layer_and_its_export_have_the_same_modules_and_numbers(rng: np.random.Generator) -> None:
    model = adapted(dense(rng), "lora", rng)
    layer, file = Inspected.of(model), Inspected.of(lg.export_onnx(model))
    assert set(owners(file.graph).values()) == set(owners(layer.graph).values())
    assert read_model(lg.export_onnx(model)).graph == file.graph
    assert lg.summarize(model).parameters == lg.summarize(lg.export_onnx(model)).parameters


def test_it_is_one_line_where_it_is_not_printed() -> None:
    summary = lg.summarize(lg.DenseLayer(64, 10, rng=0))
    assert repr(summary) == "<Summary of DenseLayer: 2 ops, 650 parameters, 1.29 kFLOP>"
