"""Presets: the text before and after, records and reports. LORA_GRAPH_GOLDEN=write writes the texts anew."""

from __future__ import annotations

import gc
import json
import os
from pathlib import Path

import pytest

from lora_graph import ops
from lora_graph.ir import Graph, Note, VerificationError, parse
from lora_graph.rewrite import PRESETS, Pass, Pipeline, optimize_graph
from lora_graph.rewrite.record import PassRecord
from tests.rewrite.running import graph_of

GOLDEN = Path(__file__).parent.parent / "golden"


def adapted() -> Graph:
    """act(x W + b + s (x A) B) with a written-out Gelu, and a plain layer behind it."""
    x = ops.input("x", "float32", ("batch", 4))
    shapes = {"base.weight": (4, 6), "base.bias": (6,), "lora.A": (4, 2), "lora.B": (2, 6), "head.weight": (3, 6)}
    w, b, first, second, head = (ops.parameter(name, "float32", shape) for name, shape in shapes.items())
    hidden = x @ w + b + x @ first @ second * 2.0
    active = ops.gelu(hidden).op.decompose(hidden)  # type: ignore[attr-defined]
    y = (active * 1.0) @ head.T + 0.0
    return Graph((x,), {"y": y}, {hidden: Note("hidden", "0"), y: Note("logits", "1")}, "adapted")


def text_of(preset: str) -> str:
    optimized = optimize_graph(adapted(), preset)
    texts = [str(adapted()), str(optimized.graph), *(str(prelude) for prelude, _ in optimized.preludes)]
    return "\n\n".join(texts) + "\n"


@pytest.mark.parametrize("preset", PRESETS)
def test_the_text_after_a_preset(preset: str) -> None:
    path = GOLDEN / f"preset_{preset}.txt"
    if os.environ.get("LORA_GRAPH_GOLDEN") == "write":
        path.write_text(text_of(preset), encoding="utf-8")
    assert text_of(preset) == path.read_text(encoding="utf-8")


@pytest.mark.parametrize("preset", PRESETS)
def test_the_golden_text_is_the_graph(preset: str) -> None:
    before, after, *preludes = (GOLDEN / f"preset_{preset}.txt").read_text(encoding="utf-8").split("\n\n")
    optimized = optimize_graph(parse(before), preset)
    assert parse(after) == optimized.graph
    assert list(map(parse, preludes)) == [prelude for prelude, _ in optimized.preludes]


def test_an_unknown_preset_is_an_error_that_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"preset must be one of .*'deploy'.*'train'.*, got 'fast'"):
        optimize_graph(adapted(), "fast")


def test_the_report_tells_what_happened() -> None:
    report = optimize_graph(adapted(), "deploy").report
    assert report.before["MatMul"] == 4
    assert report.after == {"Gemm": 1, "Gelu": 1, "MatMul": 1, "Transpose": 1}
    assert report.fired["merge_bypass_beside_bias"] == 1
    assert report.fired["fuse Gelu none"] == 1
    written = json.loads(json.dumps(report.to_dict()))
    assert [item["name"] for item in written["passes"]] == [step.name for step in PRESETS["deploy"].passes]
    assert str(report).splitlines()[0].startswith("15 ops -> 4 ops in ")


def test_refusals_are_reported() -> None:
    x = ops.input("x", "float32", ("batch", 4))
    w = ops.parameter("w", "float32", (4, 4))
    report = optimize_graph(graph_of({"y": x @ w + ops.relu(x)}), "merge").report
    assert report.to_dict()["refusals"] == [
        {"rule": "merge_bypass", "op": "Add", "reason": "Relu on the way is not linear in float32[batch, 4]"}
    ]


def test_a_pass_that_breaks_the_graph_is_found_out() -> None:
    def lose_the_input(graph: Graph) -> tuple[Graph, None, PassRecord]:
        broken = Graph((), graph.outputs)
        return broken, None, PassRecord("lose", graph, broken)

    with pytest.raises(VerificationError, match="input 'x' is used but missing"):
        Pipeline("broken", (Pass("lose", lose_the_input),)).run(adapted())


@pytest.mark.parametrize("enabled", [True, False])
def test_the_garbage_collector_is_left_as_it_was(enabled: bool) -> None:
    before = gc.isenabled()
    try:
        (gc.enable if enabled else gc.disable)()
        optimize_graph(adapted(), "train")
        assert gc.isenabled() is enabled
    finally:
        (gc.enable if before else gc.disable)()
