"""``lg.profile``: the right nodes, operations and sums. How long anything takes decides nothing here."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnx
import pytest

import lora_graph as lg
from lora_graph.errors import LoadError
from lora_graph.inspect import profile_peak
from lora_graph.inspect.profile_engines import claimed
from lora_graph.inspect.profile_report import ProfileReport, Timing
from lora_graph.onnx import read_model
from lora_graph.onnx.profiling import RuntimeNode
from tests.onnx.forms.models import adapted, convolutional, dense
from tests.onnx.test_opaque import conditional

ENGINES = ["numpy", "onnxruntime as is", "onnxruntime"]


@pytest.fixture(autouse=True)
def _small_products(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No time is spent on the peak; temporary files would be seen."""
    monkeypatch.setattr(profile_peak, "SHAPES", ((16, 16, 16),))
    profile_peak.gemm_peak.cache_clear()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)


def quick(model: Any, **options: Any) -> ProfileReport:
    return lg.profile(model, **{"repeat": 3, "warmup": 1, **options})


def network(rng: np.random.Generator) -> lg.Layer:
    return lg.Sequential([lg.DenseLayer(6, 8, "gelu", rng=rng), lg.DenseLayer(8, 5, "relu", rng=rng)])


def check_sums(timing: Timing, repeat: int) -> None:
    """What is added up is what was recorded, run by run."""
    assert len(timing.runs) == len(timing.plain) == repeat
    assert all(len(node.seconds) == repeat for node in timing.nodes)
    assert len({node.node for node in timing.nodes}) == len(timing.nodes)
    for run in range(repeat):
        inside = sum(node.seconds[run] for node in timing.nodes)
        assert inside + timing.outside[run] == pytest.approx(timing.runs[run])
        assert inside < timing.runs[run]
    for groups in (timing.by_op, timing.by_module):
        assert sum(group.count for group in groups) == len(timing.nodes)
        assert sum(group.flops for group in groups) == timing.flops
        assert sum(group.median for group in groups) == pytest.approx(sum(node.median for node in timing.nodes))
        shares = sum(timing.share(group) for group in groups)
        assert shares + median(timing.outside) / timing.accounted == pytest.approx(1)
        assert [group.median for group in groups] == sorted((group.median for group in groups), reverse=True)
    for node in timing.nodes:
        assert node.median == median(node.seconds)


def test_a_layer_in_every_engine(rng: np.random.Generator, tmp_path: Path) -> None:
    report = quick(network(rng), sizes={"batch": 10})
    assert list(report.timings) == ENGINES
    assert report.run_at == "batch = 10"
    for timing in report.timings.values():
        check_sums(timing, 3)
        assert {node.module for node in timing.nodes} == {"0", "1"}
    products = 2 * 10 * (6 * 8 + 8 * 5)
    for name, ops in (("numpy", {"MatMul": products}), ("onnxruntime as is", {"Gemm": products + 10 * (8 + 5)})):
        by_op = {group.name: group.flops for group in report.timings[name].by_op}
        assert {op: by_op[op] for op in ops} == ops
    as_is, fused = (report.timings[name] for name in ENGINES[1:])
    assert [node.op for node in as_is.nodes] == ["Gemm", "Gelu", "Gemm", "Relu"]
    assert [node.op for node in fused.nodes] == ["Gemm", "Gelu", "FusedGemm"]
    assert fused.flops == as_is.flops
    assert fused.nodes[-1].flops == 2 * 10 * 8 * 5 + 2 * 10 * 5
    assert list(tmp_path.iterdir()) == []


def test_seconds_by_value(rng: np.random.Generator) -> None:
    layer = network(rng)
    report = quick(layer)
    graph, _, _ = lg.optimize(layer)
    assert report.seconds is report.timings["numpy"].seconds
    assert report.seconds.keys() <= set(graph.values)
    assert {value.op.name for value in report.seconds} == {value.op.name for value in graph.values if value.operands}
    written = read_model(lg.export_onnx(layer)).graph
    as_is, fused = (report.timings[name].seconds for name in ENGINES[1:])
    assert as_is.keys() == {value for value in written.values if value.operands}
    assert fused.keys() < as_is.keys()
    assert written.outputs["y"] in fused
    assert {v: s for n in report.timings["onnxruntime"].nodes for v, s in [(n.value, n.median)]} == fused


def test_convolutions_are_counted_once_though_fused_and_reordered(rng: np.random.Generator, tmp_path: Path) -> None:
    layer = lg.Sequential([lg.ConvolutionalLayer(1, 16, 3, padding=1, activation="relu", rng=rng), lg.MaxPoolLayer(2)])
    path = tmp_path / "model.onnx"
    lg.export_onnx(layer, path, input_shape=("batch", 1, 8, 8))
    report = quick(path, sizes={"batch": 2})
    as_is, fused = (report.timings[name] for name in ENGINES[1:])
    work = 2 * 9 * (2 * 16 * 8 * 8)
    assert {node.op: node.flops for node in as_is.nodes}["Conv"] >= work
    assert as_is.flops == fused.flops
    (convolution,) = [node for node in fused.nodes if node.op == "Conv"]
    assert convolution.module == "0"
    assert convolution.flops >= work + 2 * 16 * 8 * 8
    assert [(node.module, node.flops) for node in fused.nodes if node.op == "ReorderOutput"] in ([], [("1", 0)])


def test_what_a_node_stands_for() -> None:
    graph = read_model(lg.export_onnx(lg.Sequential([lg.DenseLayer(4, 3, "tanh"), lg.DenseLayer(3, 2)]))).graph

    def made(*results: str) -> RuntimeNode:
        return RuntimeNode("n", "Op", results, "", (1.0,))

    ops = [
        [value.op.name for value in values]
        for values in claimed([made("0.Tanh"), made("reordered"), made("0.Tanh"), made("y")], graph)
    ]
    assert ops == [["Gemm", "Tanh"], [], [], ["Gemm"]]


def test_what_is_computed_from_weights_alone_belongs_to_no_other_node(rng: np.random.Generator) -> None:
    report = quick(lg.LSTMLayer(3, 4, rng=rng), engine="onnxruntime", sizes={"time": 5})
    as_is, fused = report.timings.values()
    assert "Unsqueeze" in {node.op for node in as_is.nodes}
    assert "Unsqueeze" not in {node.op for node in fused.nodes}
    (value,) = [node.value for node in fused.nodes if node.op == "LSTM"]
    assert value is not None
    assert value.op.name == "LSTM"


@pytest.mark.parametrize("form", ["parallel", "hot-swap", "web", "dynamic-rank", "multi-adapter", "weighted"])
def test_every_form_runs(form: str, rng: np.random.Generator) -> None:
    family = "dylora" if form == "dynamic-rank" else "lora"
    report = quick(lg.export_onnx(adapted(dense(rng), family, rng), form=form), repeat=1)
    assert list(report.timings) == ENGINES
    for timing in report.timings.values():
        check_sums(timing, 1)
    if form == "hot-swap":
        assert report.run_at.endswith(", no adapter")


def test_a_run_a_graph_and_a_built_in_layer(rng: np.random.Generator) -> None:
    layer = dense(rng)
    graph = quick(layer.to_graph(), state=layer.state, sizes={"batch": 3})
    assert [node.op for node in graph.timings["numpy"].nodes] == [
        node.op for node in quick(layer, sizes={"batch": 3}).timings["numpy"].nodes
    ]
    found = quick("DenseLayer", engine="numpy", sizes={"input_size": 12, "batch": 2})
    assert found.model == "DenseLayer"
    assert found.timings["numpy"].flops == 2 * 2 * 12 * 768 + 2 * 768


def test_inputs_that_are_given(rng: np.random.Generator) -> None:
    report = quick(network(rng), inputs=rng.normal(size=(7, 6)), engine="numpy")
    assert report.run_at == "batch = 7"
    assert report.timings["numpy"].by_op[0].flops == report.timings["numpy"].flops - sum(
        group.flops for group in report.timings["numpy"].by_op[1:]
    )
    with pytest.raises(ValueError, match="unknown input"):
        quick(network(rng), inputs={"z": np.zeros((7, 6))}, engine="numpy")


def test_peaks_are_those_of_the_dtypes_that_are_computed_in(rng: np.random.Generator) -> None:
    report = quick(lg.DenseLayer(4, 3, dtype="float64", rng=rng))
    for timing in report.timings.values():
        assert list(timing.peaks) == ["float64"]
        assert timing.floor == pytest.approx(timing.flops / timing.peaks["float64"])
        for node in timing.nodes:
            if node.flops:
                rate = node.flops / median(node.seconds)
                assert timing.of_peak(node) == pytest.approx(rate / timing.peaks["float64"])


def test_what_onnx_runtime_cannot_run_is_left_out_with_a_note(rng: np.random.Generator) -> None:
    layer = lg.ConvolutionalLayer(1, 2, 3, dtype="float64", rng=rng)
    report = quick(layer)
    assert list(report.timings) == ["numpy"]
    assert [note.partition(":")[0] for note in report.notes] == [f"{name} is left out" for name in ENGINES[1:]]
    assert "Conv" in report.notes[0]
    with pytest.raises(ValueError, match="Conv"):
        quick(layer, engine="onnxruntime")


def test_ops_that_are_not_known_are_not_counted() -> None:
    report = quick(conditional(), sizes={"n": 4})
    assert report.notes == ("foreign: the operations of 1 × If are not known",)
    for timing in report.timings.values():
        (choice,) = [node for node in timing.nodes if node.op == "If"]
        assert choice.flops == 0
        assert timing.of_peak(choice) is None


def test_a_report_as_data_and_as_text(rng: np.random.Generator) -> None:
    report = quick(convolutional(rng), sizes={"batch": 2})
    facts = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert [engine["engine"] for engine in facts["engines"]] == ENGINES
    for engine, timing in zip(facts["engines"], report.timings.values(), strict=True):
        assert engine["flops"] == sum(row["flops"] for row in engine["nodes"])
        assert [row["runs"] for row in engine["nodes"]] == [list(node.seconds) for node in timing.nodes]
        shares = sum(row["share"] for row in engine["nodes"])
        assert shares == pytest.approx(sum(node.median for node in timing.nodes) / engine["seconds_accounted"])
        for row in engine["nodes"]:
            low, middle, high = (row["seconds"][key] for key in ("low", "median", "high"))
            assert low <= middle == median(row["runs"]) <= high
    text = str(report)
    assert "numpy: " in text
    assert text.count("outside the nodes: ") == 3
    for timing in report.timings.values():
        for node in timing.nodes:
            assert node.op in text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"engine": "cuda"}, "engine must be one of"),
        ({"threads": 0}, "threads"),
        ({"repeat": 0}, "repeat"),
        ({"warmup": -1}, "warmup"),
        ({"sizes": {"time": 3}}, "no dimension called 'time'"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str, rng: np.random.Generator) -> None:
    with pytest.raises(ValueError, match=message):
        quick(network(rng), **options)
    with pytest.raises(TypeError, match="repeat"):
        quick(network(rng), repeat=True)


def test_broken_files(tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    with pytest.raises(LoadError, match="not an ONNX model"):
        quick(tmp_path / "broken.onnx")
    unknown = onnx.helper.make_node("Nothing", ["x"], ["y"], domain="own")
    x, y = (onnx.helper.make_tensor_value_info(name, 1, [2]) for name in "xy")
    graph = onnx.helper.make_graph([unknown], "g", [x], [y])
    opsets = [onnx.helper.make_opsetid("", 21), onnx.helper.make_opsetid("own", 1)]
    with pytest.raises(LoadError):
        quick(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10), engine="onnxruntime")
    assert [path.name for path in tmp_path.iterdir()] == ["broken.onnx"]
