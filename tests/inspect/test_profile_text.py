"""A profile as text: what fits in, and what a row says."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lora_graph.inspect.cost import Costs
from lora_graph.inspect.profile_report import NodeTime, ProfileReport, Timing
from lora_graph.inspect.profile_text import NARROWEST, Room, shortened, text
from lora_graph.ir import Graph

MODULE = "encoder.layer.0.attention.output.dense.weighted"


def report() -> ProfileReport:
    nodes = (
        NodeTime(f"{MODULE}.MatMul", "MatMul", MODULE, (4e-3, 2e-3, 3e-3), 6_000_000, "float32"),
        NodeTime("y", "Add", "head", (1e-3, 1e-3, 1e-3)),
    )
    timing = Timing("numpy", nodes, (5e-3, 5e-3, 5e-3), (4e-3, 4e-3, 4e-3), Costs(Graph((), {}), {}), {"float32": 8e9})
    return ProfileReport("m.onnx", "batch = 2", 2, 1, 3, 0, {"numpy": timing}, ("a note",))


def test_it_is_one_line_where_it_is_not_printed() -> None:
    assert repr(report()) == "<ProfileReport of m.onnx: numpy 4.000 ms>"


def test_every_number() -> None:
    lines = text(report()).splitlines()
    assert lines[0] == "m.onnx: batch = 2; 2 threads, medians of 3 runs"
    assert lines[2] == "note: a note"
    assert lines[4] == (
        "numpy: 4.000 ms a run (4.000 to 4.000), 6.00 MFLOP at 1.5 GFLOP/s, 19% of the GEMM peak (8 GFLOP/s in float32)"
    )
    cells = [line.split() for line in lines]
    assert ["MatMul", "MatMul", MODULE, "3.000", "0.500", "60.0%", "6.00", "M", "2.0", "25%"] in cells
    assert ["y", "Add", "head", "1.000", "0.000", "20.0%"] in cells
    assert "outside the nodes: 1.000 ms (20.0%); a run with its nodes timed takes 5.000 ms" in lines
    assert ["MatMul", "1", "3.000", "60.0%", "6.00", "M", "2.0"] in cells
    assert [MODULE, "1", "3.000", "60.0%", "6.00", "M", "2.0"] in cells


@pytest.mark.parametrize("columns", [80, 90, 100])
def test_names_give_way(columns: int) -> None:
    found = text(report(), Room(None, columns))
    rows = [line for line in found.splitlines() if "3.000" in line or "head" in line]
    assert len(rows) == 5
    assert max(map(len, rows)) <= columns
    (node,) = [line for line in rows if line.endswith("25%")]
    assert MODULE not in node
    assert MODULE[:4] in node
    assert MODULE[-4:] in node


def test_a_busy_machine_is_told_of() -> None:
    (timing,) = report().timings.values()
    node = replace(timing.nodes[1], seconds=(1e-3, 9e-3, 1e-3))
    other = replace(timing.nodes[0], seconds=(9e-3, 2e-3, 2e-3))
    busy = replace(timing, nodes=(other, node), runs=(12e-3, 13e-3, 5e-3))
    assert "12.000 ms, of which 5.000 ms are accounted for: the machine was busy" in text(
        replace(report(), timings={"numpy": busy})
    )
    assert "busy" not in text(report())


def test_only_the_longest_rows() -> None:
    found = text(report(), Room(1))
    assert "and 1 more nodes" in found
    assert "and 1 more modules" in found
    assert "head" not in found


def test_shortened() -> None:
    assert shortened("abcdef", 6) == "abcdef"
    assert shortened("abcdefg", 6) == "abc…fg"
    assert shortened("abcdefg", 5) == "ab…fg"
    assert len(shortened("x" * 10_000, NARROWEST)) == NARROWEST
