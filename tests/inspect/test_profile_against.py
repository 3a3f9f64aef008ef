"""Two profiles: which node of one is which of the other, and what both add up to."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import lora_graph as lg
from lora_graph.inspect import profile_peak
from lora_graph.inspect.profile_against import Pair, aligned, grouped, home
from lora_graph.inspect.profile_report import Group, NodeTime
from tests.onnx.forms.models import adapted, dense


@pytest.fixture(autouse=True)
def _small_products(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profile_peak, "SHAPES", ((16, 16, 16),))
    profile_peak.gemm_peak.cache_clear()


def node(name: str, op: str = "Add", module: str = "", seconds: float = 1.0) -> NodeTime:
    return NodeTime(name, op, module, (seconds,) * 3)


def names(pairs: list[Pair]) -> list[tuple[str | None, str | None]]:
    sides = [(pair.own, pair.other) for pair in pairs]
    return [
        (own.node if isinstance(own, NodeTime) else None, other.node if isinstance(other, NodeTime) else None)
        for own, other in sides
    ]


def test_names_come_first_then_modules() -> None:
    own = [node("a"), node("b", "Mul"), node("m.1", "Gemm", "m"), node("m.2", "Gemm", "m"), node("only", "Tanh")]
    other = [node("m.2", "Gemm", "m"), node("b", "Add"), node("other", "Gemm", "m"), node("a")]
    assert names(aligned(own, other)) == [
        ("a", "a"),
        ("b", None),
        ("m.1", "other"),
        ("m.2", "m.2"),
        ("only", None),
        (None, "b"),
    ]


def test_the_base_of_an_adapter_is_the_layer_without_it() -> None:
    own = [node("base.0.Gemm", "Gemm", "base.0"), node("lora.MatMul", "MatMul", "lora")]
    other = [node("1.Gemm", "Gemm", "1"), node("0.Gemm", "Gemm", "0")]
    expected = [("base.0.Gemm", "0.Gemm"), ("lora.MatMul", None), (None, "1.Gemm")]
    assert names(aligned(own, other)) == expected
    assert names(aligned(other, own))[:2] == [("1.Gemm", None), ("0.Gemm", "base.0.Gemm")]
    assert home("encoder.0.base.fc") == "encoder.0.fc"
    assert home("") == ""


def test_ratios_and_groups() -> None:
    assert Pair(node("a", seconds=3.0), node("a", seconds=2.0)).ratio == 1.5
    assert Pair(node("a"), None).ratio is None
    own = [Group("Gemm", 2, 1.0, 5), Group("Add", 1, 0.5, 1)]
    other = [Group("Relu", 1, 2.0, 1), Group("Gemm", 1, 4.0, 5)]
    pairs = grouped(own, other)
    assert [(pair.own or pair.other).name for pair in pairs] == ["Gemm", "Relu", "Add"]  # type: ignore[union-attr]
    assert [pair.ratio for pair in pairs] == [0.25, None, None]


def test_a_parallel_model_against_its_merged_one(rng: np.random.Generator, tmp_path: Path) -> None:
    model = adapted(dense(rng), "lora", rng)
    lg.export_onnx(model, tmp_path / "merged.onnx", form="merged")
    report = lg.profile(model, against=tmp_path / "merged.onnx", repeat=5, warmup=0)
    assert report.against is not None
    facts = report.to_dict()
    assert facts["against"]["model"] == str(tmp_path / "merged.onnx")
    for timing in (*report.timings.values(), *report.against.timings.values()):
        assert len(timing.runs) == len(timing.plain) == 5
    pairs = facts["compared"]["onnxruntime as is"]
    assert [(row["module"], row["op"]) for row in pairs if row["against"] is None] == [
        (row["module"], row["op"])
        for row in facts["engines"][1]["nodes"]
        if row["module"].startswith("default") or row["node"] in ("base.0.Gemm.1", "base.1.Gemm.1")
    ]
    assert all(row["seconds"] is not None for row in pairs)
    assert "against" in str(report)
    assert f"against {tmp_path / 'merged.onnx'}: batch = 64" in str(report)
