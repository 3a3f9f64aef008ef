"""Scenes: nodes and edges of a graph, the same nodes through passes, provenance, and what belongs to an adapter."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest

import lora_graph as lg
from lora_graph import ops
from lora_graph.inspect.cycles import on_cycles
from lora_graph.inspect.kin import adapter_values
from lora_graph.inspect.scene import Edge, Node, Scene, SceneMaker, attribute_text, constant_text, scene_of
from lora_graph.inspect.scene_data import ranges
from lora_graph.inspect.scene_text import captions, shape_of, shorten, width_of
from lora_graph.inspect.stages import align, replaced
from lora_graph.ir import Graph, dim
from lora_graph.ir.graph import Note
from lora_graph.ir.leaves import Constant, Dimension
from lora_graph.rewrite import optimize_graph
from lora_graph.rewrite.record import PassRecord, Report

X = ops.input("x", "float32", ("batch", 4))


def named(scene: Scene, op: str) -> list[Node]:
    return [node for node in scene.nodes if node.op == op]


def staged(*graphs: Graph) -> Scene:
    records = [PassRecord(f"pass{i}", before, after) for i, (before, after) in enumerate(itertools.pairwise(graphs))]
    return scene_of(graphs[0], report=Report(tuple(records)))


def test_nodes_and_edges_of_a_graph() -> None:
    w = ops.parameter("fc.weight", "float32", (4, 3))
    product = X @ w
    y = product * 2.0
    scene = scene_of(Graph((X,), {"y": y}, {product: Note("named", scope="fc")}, "net"))
    assert scene.name == "net"
    found = {node.op: (node.label, node.kind, node.type, node.module) for node in scene.nodes}
    assert found == {
        "Input": ("x", "input", "float32[batch, 4]", ""),
        "Parameter": ("fc.weight", "parameter", "float32[4, 3]", "fc"),
        "MatMul": ("named", "op", "float32[batch, 3]", "fc"),
        "Mul": ("", "op", "float32[batch, 3]", ""),
        "Constant": ("2.0", "constant", "float32[]", ""),
        "Output": ("y", "output", "float32[batch, 3]", ""),
    }
    ids = {node.op: node.id for node in scene.nodes}
    assert set(scene.edges) == {
        Edge(ids["Input"], ids["MatMul"], 0),
        Edge(ids["Parameter"], ids["MatMul"], 1),
        Edge(ids["MatMul"], ids["Mul"], 0),
        Edge(ids["Constant"], ids["Mul"], 1),
        Edge(ids["Mul"], ids["Output"], 0),
    }
    assert [node.id for node in scene.nodes] == list(range(6))
    (stage,) = scene.stages
    assert (stage.name, stage.nodes, stage.edges) == ("model", frozenset(range(6)), frozenset(range(5)))


def test_every_use_of_a_constant_is_a_node_and_an_absent_operand_is_none() -> None:
    scene = scene_of(Graph((X,), {"y": ops.tanh(X * 3.0) * 3.0}))
    assert [node.label for node in named(scene, "Constant")] == ["3.0", "3.0"]
    x = ops.input("x", "float32", ("time", "batch", 3))
    w, r = ops.parameter("w", "float32", (1, 8, 3)), ops.parameter("r", "float32", (1, 8, 2))
    start = ops.parameter("start", "float32", (1, 1, 2))
    _, last, _ = ops.lstm(x, w, r, initial_h=start)
    graph = Graph((x,), {"y": last})
    assert any(value.op.name == "Absent" for value in graph.values)
    scene = scene_of(graph)
    assert sorted(node.op for node in scene.nodes if node.kind == "op") == ["LSTM", "Project"]
    (lstm,) = named(scene, "LSTM")
    assert [edge.operand for edge in scene.edges if edge.target == lstm.id] == [0, 1, 2, 5]


def test_a_parameter_belongs_to_the_module_that_holds_all_its_users() -> None:
    w = ops.parameter("w", "float32", (4, 4))
    one, two = X @ w, ops.tanh(X) @ w
    notes = {one: Note(scope="a.b"), two: Note(scope="a.c")}
    scene = scene_of(Graph((X,), {"y": one, "z": two}, notes))
    assert named(scene, "Parameter")[0].module == "a"


def test_an_optional_detail_and_a_metric_reach_their_node() -> None:
    y = ops.tanh(X)
    scene = scene_of(Graph((X,), {"y": y}), metrics={"flops": {y: 256}}, details={y: {"cost": "256 flops"}})
    (node,) = named(scene, "Tanh")
    assert scene.metrics == {"flops": {node.id: 256.0}}
    assert node.details == {"cost": "256 flops"}


def test_what_depends_on_a_change_stays_the_same_node() -> None:
    """The first op is exchanged; the twenty after it are other Values and the same nodes."""

    def after(first: object) -> Graph:
        h = first
        for index in range(20):
            h = ops.tanh(h) + ops.parameter(f"b{index}", "float32", (4,))  # type: ignore[operator]
        return Graph((X,), {"y": h})  # type: ignore[dict-item]

    scene = staged(after(ops.exp(X)), after(ops.relu(X)))
    gone, new = scene.stages[0].nodes - scene.stages[1].nodes, scene.stages[1].nodes - scene.stages[0].nodes
    assert [scene.nodes[node].op for node in gone] == ["Exp"]
    assert [scene.nodes[node].op for node in new] == ["Relu"]
    assert len(scene.nodes) == 1 + 1 + 1 + 60 + 1


def test_a_node_that_two_rewrites_enclose_is_found_by_an_operand_in_common() -> None:
    w = ops.parameter("w", "float32", (4, 4))
    before = Graph((X,), {"y": ops.exp(ops.exp(X) @ w)})
    after = Graph((X,), {"y": ops.relu(ops.relu(X) @ w)})
    (old,) = [value for value in before.values if value.op.name == "MatMul"]
    (new,) = [value for value in after.values if value.op.name == "MatMul"]
    assert align(before, after) == {new: old}


def test_nodes_whose_order_is_turned_round_do_not_run_in_a_circle() -> None:
    """(x s) W and (x W) s: each op has an operand in common, but not both can stay."""
    w, s = ops.parameter("w", "float32", (4, 4)), ops.parameter("s", "float32", ())
    scene = staged(Graph((X,), {"y": (X * s) @ w}), Graph((X,), {"y": (X @ w) * s}))
    assert not on_cycles(len(scene.nodes), [edge[:2] for edge in scene.edges])
    assert len(named(scene, "MatMul")) + len(named(scene, "Mul")) == 4


def test_cycles_are_found() -> None:
    edges = [(0, 1), (1, 2), (2, 1), (2, 3)]
    assert on_cycles(4, edges) == {1, 2}
    assert on_cycles(4, edges[:2]) == set()


def test_a_new_node_tells_what_it_was_made_from_and_by_which_rules() -> None:
    w, b = ops.parameter("w", "float32", (4, 4)), ops.parameter("b", "float32", (4,))
    y = ops.tanh(X @ w + b)
    graph = Graph((X,), {"y": y})
    scene = scene_of(graph, report=optimize_graph(graph, "deploy").report)
    (gemm,) = named(scene, "Gemm")
    assert {scene.nodes[source].op for source in gemm.sources} == {"Add", "MatMul"}
    assert gemm.details["rules"] == "fuse_gemm"
    assert gemm.id in scene.stages[-1].nodes
    assert not set(gemm.sources) & scene.stages[-1].nodes


def test_each_of_several_fused_layers_tells_its_own_nodes_and_what_is_between_them_stays() -> None:
    x, notes = X, {}
    for i in range(3):
        w, b = ops.parameter(f"{i}.w", "float32", (4, 4)), ops.parameter(f"{i}.b", "float32", (4,))
        x = ops.relu(x @ w + b)
        notes[x] = Note(f"relu{i}", scope=str(i))
    graph = Graph((X,), {"y": ops.exp(x)}, notes)
    scene = scene_of(graph, report=optimize_graph(graph, "deploy").report)
    assert len(named(scene, "Relu")) == 3
    assert [[scene.nodes[source].op for source in gemm.sources] for gemm in named(scene, "Gemm")] == [
        ["Add", "MatMul"]
    ] * 3
    assert len({source for gemm in named(scene, "Gemm") for source in gemm.sources}) == 6


def test_what_is_made_again_as_it_was_has_no_sources() -> None:
    gemm = ops.gemm(X, ops.parameter("w", "float32", (4, 4)), ops.parameter("b", "float32", (4,)))
    graph = Graph((X,), {"y": gemm})
    scene = scene_of(graph, report=optimize_graph(graph, "deploy").report)
    (node,) = named(scene, "Gemm")
    assert len(named(scene, "MatMul")) == 1
    assert node.id in scene.stages[0].nodes & scene.stages[-1].nodes
    assert node.sources == ()


def test_merging_tells_that_the_new_weight_comes_from_the_bypass() -> None:
    layer = lg.StandardLoRAAdapter(lg.DenseLayer(8, 8, rng=0), rank=2, alpha=4, site="weight", rng=0)
    _, _, report = lg.optimize(layer, "deploy")
    scene = scene_of(report.passes[0].before, report=report, adapters=["lora.A", "lora.B"])
    merged = [node for node in scene.nodes if node.type == "float32[8, 8]" and node.kind == "op"]
    assert merged
    for node in merged:
        assert "Add" in {scene.nodes[source].op for source in node.sources}


def test_a_source_is_what_is_gone_and_led_to_what_was_replaced() -> None:
    before = Graph((X,), {"y": ops.tanh(ops.exp(X) * 2.0)})
    after = Graph((X,), {"y": ops.tanh(ops.relu(X))})
    tanh = after.outputs["y"]
    pairs = align(before, after)
    assert pairs == {tanh: before.outputs["y"]}
    (product,) = before.outputs["y"].operands
    assert replaced(before, after, pairs) == {tanh.operands[0]: (product, product.operands[0])}


def test_stages_that_change_nothing_are_there() -> None:
    graph = Graph((X,), {"y": ops.tanh(X)})
    scene = staged(graph, graph, graph)
    assert [stage.name for stage in scene.stages] == ["model", "pass0", "pass1"]
    assert len({stage.nodes for stage in scene.stages}) == 1


@pytest.mark.parametrize("preset", ["train", "inference", "deploy"])
@pytest.mark.parametrize(
    "make",
    [
        lambda: lg.DyLoRAAdapter(lg.ConvolutionalLayer(2, 4, 3, rng=0), 3, [1, 2], rng=0).eval(),
        lambda: lg.LoKrAdapter(lg.DenseLayer(6, 4, "gelu", rng=0), rank=2, site="weight", rng=0),
        lambda: lg.StandardLoRAAdapter(lg.LSTMLayer(3, 4, rng=0), rank=2, site="weight", rng=0),
    ],
)
def test_a_stage_has_the_values_and_operands_of_its_graph(make: Callable[[], lg.Layer], preset: str) -> None:
    _, _, report = lg.optimize(make(), preset)
    scene = scene_of(report.passes[0].before, report=report)
    assert not on_cycles(len(scene.nodes), [edge[:2] for edge in scene.edges])
    for stage, record in zip(scene.stages[1:], report.passes, strict=True):
        graph = record.after
        leaves = ("Constant", "Dimension", "Absent")
        values = [value for value in graph.values if value.op.name not in leaves]
        ops_there = sorted([value.op.name for value in values] + ["Output"] * len(graph.outputs))
        assert sorted(scene.nodes[n].op for n in stage.nodes if scene.nodes[n].kind != "constant") == ops_there
        operands = sum(o.op.name != "Absent" for value in values for o in value.operands)
        assert len(stage.edges) == operands + len(graph.outputs)
        assert all({scene.edges[e].source, scene.edges[e].target} <= stage.nodes for e in stage.edges)


def test_two_graphs_side_by_side_share_what_matches() -> None:
    left, right = ops.tanh(X), ops.tanh(X * 2.0)
    making = SceneMaker("both", (), {})
    making.add("left", Graph((X,), {"y": left}))
    making.add("right", Graph((X,), {"y": right}), {right: left})
    scene = making.scene({}, {right.operands[0]: "added"})
    assert [stage.name for stage in scene.stages] == ["left", "right"]
    assert len(named(scene, "Tanh")) == 1
    (added,) = named(scene, "Mul")
    assert scene.marks == {added.id: "added"}
    assert added.id in scene.stages[1].nodes - scene.stages[0].nodes


def test_the_adapters_part_ends_where_it_joins_the_base() -> None:
    w, bias = ops.parameter("w", "float32", (4, 4)), ops.parameter("bias", "float32", (4,))
    a, b = ops.parameter("A", "float32", (4, 2)), ops.parameter("B", "float32", (2, 4))
    h = ops.tanh(X)
    down = h @ a[:, :1]
    up = down @ b[:1]
    scaled = up * 0.5
    y = ops.relu(h @ w + scaled + bias)
    ours = adapter_values(Graph((X,), {"y": y}), {"A", "B"})
    assert {a, b, down, up, scaled} <= ours
    assert not {h, w, y, bias} & ours
    assert sorted(value.op.name for value in ours) == [
        "MatMul",
        "MatMul",
        "Mul",
        "Parameter",
        "Parameter",
        "Slice",
        "Slice",
    ]


def test_a_product_that_adds_to_what_the_base_computes_is_not_the_adapters() -> None:
    """Gemm(x A, B, x W) takes the adapter's B, but its result is that of both."""
    w, a, b = (ops.parameter(name, "float32", shape) for name, shape in (("w", (4, 3)), ("A", (4, 2)), ("B", (2, 3))))
    down = X @ a
    joined = ops.gemm(down, b, X @ w)
    assert adapter_values(Graph((X,), {"y": ops.relu(joined)}), {"A", "B"}) == {a, b, down}


def test_in_a_merged_weight_the_change_is_the_adapters_and_the_sum_is_not() -> None:
    w = ops.parameter("w", "float32", (4, 4))
    a, b = ops.parameter("A", "float32", (4, 2)), ops.parameter("B", "float32", (2, 4))
    change = a @ b
    total = w + change
    ours = adapter_values(Graph((X,), {"y": X @ total}), {"A", "B"})
    assert ours == {a, b, change}


def test_without_adapters_nothing_is_an_adapters() -> None:
    assert not any(node.is_adapter for node in scene_of(lg.DenseLayer(3, 2).to_graph()).nodes)


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("float32[batch, 8]", "batch × 8"),
        ("float32[]", "scalar"),
        ("int64[2]", "int64 2"),
        ("bool[]", "bool"),
        ("(float32[2, 3]; int64[])", "2 results"),
        ("float32[batch*time, (h - 1)//2 + 1]", "batch*time × (h - 1)//2 + 1"),
    ],
)
def test_types_are_shown_as_their_dimensions(written: str, shown: str) -> None:
    assert shape_of(written) == shown


def test_long_and_hostile_names_are_cut_and_cleaned() -> None:
    assert shorten("encoder") == "encoder"
    long = shorten("a" * 5000 + "zz")
    assert len(long) == 26
    assert long.startswith("aaa")
    assert long.endswith("zz")
    assert "…" in long
    assert shorten("a\u202eb\x00c\n") == "a\ufffdb\ufffdc\ufffd"
    assert width_of("漢字", 7.0) == 28
    scene = scene_of(Graph((ops.input("\u202e" * 10_000, "float32", (2,)),), {}))
    assert captions(scene)[0].width < 260


def test_an_op_of_one_number_says_it() -> None:
    scene = scene_of(Graph((X,), {"y": ops.tanh(X * 0.5) * 1.2345678}))
    said = [c.title for c, node in zip(captions(scene), scene.nodes, strict=True) if node.kind == "op"]
    assert said == ["Mul 0.5", "Tanh", "Mul"]


def test_attributes_and_constants_as_text() -> None:
    assert attribute_text((1, 2.5)) == "(1, 2.5)"
    assert attribute_text(np.dtype(np.float16)) == "float16"
    assert attribute_text(dim("batch") * 2) == str(dim("batch") * 2)
    assert len(attribute_text("x" * 10_000)) == 2001
    assert constant_text(Constant(np.float32(0.5))) == "0.5"
    assert constant_text(Constant(np.arange(100))) == "[ 0,  1,  2, ..., 97, 98, 99]"
    size = dim("batch")
    assert not isinstance(size, int)
    assert constant_text(Dimension(size)) == "batch"


def test_numbers_as_ranges() -> None:
    assert ranges({5, 1, 2, 3, 9}) == [(1, 4), (5, 6), (9, 10)]
    assert ranges(set()) == []
