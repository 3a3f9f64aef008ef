"""ONNX Runtime's profiler: what is read from what it records, and that nothing of it is left behind."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

import lora_graph as lg
from lora_graph.errors import LoadError
from lora_graph.onnx import profiling
from lora_graph.onnx.profiling import ProfilingSession, QuietSession, RuntimeProfile, read_profile, with_node_names
from tests.onnx.test_opaque import conditional

RECORDED = Path(__file__).parent.parent / "data" / "onnxruntime_profile.json"


def node(facts: dict[str, Any]) -> onnx.NodeProto:
    made = helper.make_node(facts["op_type"], facts["inputs"], facts["outputs"], name=facts["name"])
    if "body" in facts:
        body = helper.make_graph([node(row) for row in facts["body"]], "body", [], [])
        made.attribute.append(helper.make_attribute("body", body))
    return made


@pytest.fixture(scope="module")
def recorded() -> RuntimeProfile:
    """Three runs of a convolution, a layer and a loop, recorded with optimizations on."""
    facts = json.loads(RECORDED.read_text())
    executed = helper.make_graph([node(row) for row in facts["executed"]], "executed", [], [])
    return read_profile(facts["events"], executed, [node(row) for row in facts["written"]])


def test_a_recorded_profile(recorded: RuntimeProfile) -> None:
    assert [(n.name, n.op, n.results, n.scope) for n in recorded.nodes] == [
        ("r_nchwc", "Conv", ("r",), "conv.act"),
        ("ReorderOutput", "ReorderOutput", ("r",), "conv.act"),
        ("/flatten/Flatten", "Flatten", ("f",), "flatten"),
        ("fused /head/Gemm", "FusedGemm", ("t",), "head.act"),
        ("/Loop", "Loop", ("y",), ""),
    ]
    assert recorded.seconds == pytest.approx([339e-6, 134e-6, 114e-6])
    assert recorded.nodes[0].seconds == pytest.approx([128e-6, 18e-6, 11e-6])
    assert recorded.nodes[-1].seconds == pytest.approx([103e-6, 57e-6, 54e-6])  # the body is inside, not beside it
    for run, whole in enumerate(recorded.seconds):
        assert sum(n.seconds[run] for n in recorded.nodes) < whole


def test_a_node_that_is_nowhere_in_the_model_has_no_result() -> None:
    events = [
        {"cat": "Node", "name": "a_kernel_time", "dur": 3, "args": {"op_name": "Cast"}},
        {"cat": "Node", "name": "b_kernel_time", "dur": 4, "args": {"op_name": "Relu"}},
        {"cat": "Node", "name": "b_fence_after", "dur": 9, "args": {"op_name": "Relu"}},
        {"cat": "Session", "name": "model_run", "dur": 8, "args": {}},
    ]
    executed = helper.make_graph([helper.make_node("Relu", ["x"], ["other"], name="b")], "g", [], [])
    found = read_profile(events, executed, [helper.make_node("Relu", ["x"], ["y"], name="b")])
    assert [(n.name, n.op, n.results, n.seconds) for n in found.nodes] == [
        ("a", "Cast", (), (3e-6,)),
        ("b", "Relu", ("y",), (4e-6,)),
    ]


def network(rng: np.random.Generator) -> onnx.ModelProto:
    return lg.export_onnx(lg.Sequential([lg.DenseLayer(6, 8, "gelu", rng=rng), lg.DenseLayer(8, 5, "relu", rng=rng)]))


@pytest.mark.parametrize("optimize", [False, True])
def test_every_node_of_a_run_is_in_its_profile_once(
    optimize: bool, rng: np.random.Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model = network(rng)
    x = rng.normal(size=(3, 6)).astype(np.float32)
    with ProfilingSession(model, threads=1, optimize=optimize) as session:
        folder = Path(session._folder.name)
        results = [session.run(x) for _ in range(4)]
        found = session.profile()
        assert sorted(path.suffix for path in folder.iterdir()) == [".json", ".onnx"]
    np.testing.assert_array_equal(results[0], QuietSession(model, threads=1, optimize=optimize).run(x))
    assert not folder.exists()
    assert list(tmp_path.iterdir()) == []
    assert [len(n.seconds) for n in found.nodes] == [4] * len(found.nodes)
    assert len(found.seconds) == 4
    names = {n.name: n for n in model.graph.node}
    if optimize:
        assert "FusedGemm" in {n.op for n in found.nodes}
    else:
        assert sorted(n.name for n in found.nodes) == sorted(names)
        assert all(n.op == names[n.name].op_type and n.results == tuple(names[n.name].output) for n in found.nodes)
    assert found.nodes[-1].results == ("y",)
    assert {n.scope for n in found.nodes} == {"0", "1"}


def test_nodes_without_a_name_of_their_own_get_one() -> None:
    model = conditional()
    before = model.SerializeToString()
    named = with_node_names(model)
    assert model.SerializeToString() == before
    outer = [n.name for n in named.graph.node]
    assert outer == ["MatMul", "ReduceSum", "Greater", "choice", "Relu"]
    (choice,) = [n for n in named.graph.node if n.name == "choice"]
    inner = [n.name for attribute in choice.attribute for n in attribute.g.node]
    assert len({*outer, *inner}) == len(outer) + len(inner) == 9
    assert with_node_names(named) is named
    with ProfilingSession(model, threads=1, optimize=False) as session:
        session.run(np.ones((4, 3), np.float32))
        found = session.profile()
    assert sorted(n.name for n in found.nodes) == sorted(outer)


def test_functions_are_written_out() -> None:
    inner = [helper.make_node("Relu", ["a"], ["b"], name="r"), helper.make_node("Neg", ["b"], ["c"], name="n")]
    twice = helper.make_function("own", "Twice", ["a"], ["c"], inner, [helper.make_opsetid("", 21)])
    calls = [helper.make_node("Twice", [a], [b], name=b, domain="own") for a, b in (("x", "h"), ("h", "y"))]
    float_info = helper.make_tensor_value_info
    graph = helper.make_graph(calls, "g", [float_info("x", 1, ["n", 2])], [float_info("y", 1, ["n", 2])])
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("own", 1)]
    model = helper.make_model(graph, functions=[twice], opset_imports=opsets, ir_version=10)
    with ProfilingSession(model, threads=1, optimize=False) as session:
        session.run(np.ones((1, 2), np.float32))
        found = session.profile()
    assert [n.op for n in found.nodes] == ["Relu", "Neg", "Relu", "Neg"]
    assert found.nodes[-1].results == ("y",)
    assert all(n.results for n in found.nodes)


def test_more_runs_than_are_kept(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = network(rng), np.ones((1, 6), np.float32)
    with ProfilingSession(model, threads=1, optimize=False) as session:
        monkeypatch.setattr(profiling, "EVENTS", 9)  # of 4 nodes
        session.run(x)
        session.run(x)
        with pytest.raises(ValueError, match="keeps times of 9 nodes, 2 runs of 4"):
            session.run(x)
        assert len(session.profile().seconds) == 2
    with ProfilingSession(model, threads=1, optimize=False) as session:
        session.run(x)
        session._runs += 1  # one that ONNX Runtime has dropped
        with pytest.raises(ValueError, match="1 runs of 4"):
            session.profile()


def test_a_model_that_cannot_be_loaded_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    unloadable = conditional()
    unloadable.graph.node[0].op_type = "Nothing"
    with pytest.raises(LoadError, match=r"none\.onnx"):
        ProfilingSession(tmp_path / "none.onnx", threads=1, optimize=True)
    with pytest.raises(LoadError, match="cannot load"):
        ProfilingSession(unloadable, threads=1, optimize=True)
    assert list(tmp_path.iterdir()) == []
