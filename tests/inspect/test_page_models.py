"""Pages of models and of profiles: the stages, costs, statistics and times that they are made of."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import lora_graph as lg
from lora_graph.inspect import profile_peak
from lora_graph.inspect.diffing import DiffReport
from lora_graph.inspect.inspected import Inspected
from lora_graph.inspect.page.diff import diff_page
from lora_graph.inspect.page.model import model_page
from lora_graph.inspect.page.profile import profile_page


@pytest.fixture
def layer(rng: np.random.Generator) -> lg.StandardLoRAAdapter:
    found = lg.StandardLoRAAdapter(lg.DenseLayer(12, 7, "relu", rng=rng), 3, site="weight", rng=rng)
    found.set_parameter("lora.B", rng.normal(size=(3, 7)).astype(np.float32))
    return found


def nodes(data: dict[str, Any], stage: int) -> list[int]:
    return [node for start, stop in data["stages"][stage]["nodes"] for node in range(start, stop)]


def ops(data: dict[str, Any], chosen: list[int]) -> list[str]:
    return sorted(data["strings"][data["nodes"]["op"][node]] for node in chosen)


def labelled(data: dict[str, Any], name: str) -> int:
    return [data["strings"][i] for i in data["nodes"]["label"]].index(name)


def described(data: dict[str, Any], node: int) -> dict[str, str]:
    return {data["strings"][name]: data["strings"][text] for name, text in data["details"][node]}


def computed(data: dict[str, Any], stage: int) -> list[int]:
    return [node for node in nodes(data, stage) if data["kinds"][data["nodes"]["kind"][node]] == "op"]


def test_the_stages_are_the_model_and_each_pass(layer: lg.StandardLoRAAdapter) -> None:
    data = model_page(Inspected.of(layer), preset="deploy")
    _, _, report = lg.optimize(layer, preset="deploy")
    assert [stage["name"] for stage in data["stages"]] == ["model", *(record.name for record in report.passes)]
    assert ops(data, computed(data, 0)) == ["Add", "Add", "MatMul", "MatMul", "MatMul", "Mul", "Relu"]
    assert ops(data, computed(data, -1)) == ["Gemm", "Relu"]
    merging = next(stage for stage in data["stages"] if stage["name"] == "merge")
    assert any("×" in text for name, text in merging["facts"] if name == "fired")
    assert ("parameters", "148 in 592 B; 57 train (38.51%), 57 of adapters") in data["summary"]


def test_costs_and_the_adapter_are_those_of_the_graph(layer: lg.StandardLoRAAdapter) -> None:
    data = model_page(Inspected.of(layer, sizes={"batch": 5}))
    flops = dict(zip(data["metrics"]["flops"]["ids"], data["metrics"]["flops"]["values"], strict=True))
    products = [node for node in computed(data, 0) if data["strings"][data["nodes"]["op"][node]] == "MatMul"]
    assert sorted(flops[node] for node in products) == sorted(2 * 5 * a * b for a, b in ((12, 7), (12, 3), (3, 7)))
    assert {labelled(data, "lora.A"), labelled(data, "lora.B")} <= set(data["adapter"])
    assert labelled(data, "base.weight") not in data["adapter"]


def test_weights_tell_their_statistics(layer: lg.StandardLoRAAdapter) -> None:
    data = model_page(Inspected.of(layer), values=True)
    weight = layer.get_parameter("base.weight")
    told = described(data, labelled(data, "base.weight"))
    assert told["range"] == f"{weight.min():.3g} … {weight.max():.3g}"
    assert told["ΔW"].startswith("effective rank 3,")
    assert "range" not in described(model_page(Inspected.of(layer)), labelled(data, "base.weight"))


@pytest.mark.parametrize("training", [False, True])
def test_a_profile_tells_the_time_of_every_node(
    training: bool, layer: lg.StandardLoRAAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(profile_peak, "SHAPES", ((16, 16, 16),))
    profile_peak.gemm_peak.cache_clear()
    report = lg.profile(layer, repeat=2, warmup=0, training=training)
    data = profile_page(report, Inspected.of(layer).adapters)
    assert data["kind"] == "profile"
    drawn = [name for stage in data["stages"] for name in stage["name"].split(", ")]
    assert drawn == list(report.timings)
    for name, timing in report.timings.items():
        found = data["metrics"][f"time, {name}"]
        assert sum(found["values"]) == pytest.approx(sum(timing.seconds.values()))
        assert all(name in described(data, node) for node in found["ids"])
    assert labelled(data, "lora.A") in data["adapter"]


def alive(data: dict[str, Any], name: str, stage: int) -> bool:
    return labelled(data, name) in nodes(data, stage)


def test_a_diff_marks_and_lists_what_differs(layer: lg.StandardLoRAAdapter) -> None:
    report = lg.diff(lg.export_onnx(layer), lg.export_onnx(layer, form="merged"))
    data = diff_page(report)
    assert data["kind"] == "diff"
    assert alive(data, "lora.A", 0)
    assert not alive(data, "lora.A", 1)
    assert alive(data, "base.weight", 0)
    assert alive(data, "base.weight", 1)
    assert data["marks"][labelled(data, "lora.A")] == "removed"
    assert data["marks"][labelled(data, "base.weight")] == "weights"
    (weight,) = [change for change in data["changes"] if change[0] == "weights"]
    assert "rank 3 of 7" in weight[1]
    assert weight[2] == [labelled(data, "base.weight")]
    assert len(data["changes"]) == len(report.removed) + len(report.added) + len(report.fused) + len(report.changed) + 1


def test_what_became_one_op_is_marked_on_both_sides(rng: np.random.Generator) -> None:
    layer = lg.DenseLayer(5, 4, rng=rng)
    graph, _, _ = lg.optimize(layer, preset="export")
    report = lg.diff(layer.to_graph(), graph)
    assert isinstance(report, DiffReport)
    data = diff_page(report)
    marked = {data["strings"][data["nodes"]["op"][node]]: mark for node, mark in data["marks"].items()}
    assert marked == {"MatMul": "fused", "Add": "fused", "Gemm": "fused"}
    ((mark, line, where),) = data["changes"]
    assert mark == "fused"
    assert "Gemm" in line
    assert len(where) == 3
