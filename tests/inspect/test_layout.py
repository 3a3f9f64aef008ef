"""Layouts: nothing overlaps, edges go down, every node stands in one place, in all stages the same."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
import pytest

import lora_graph as lg
from lora_graph import ops
from lora_graph.inspect.layout import Layout, lay_out
from lora_graph.inspect.layout_blocks import nest, topological
from lora_graph.inspect.layout_columns import place_rows
from lora_graph.inspect.scene import Scene, scene_of
from lora_graph.inspect.scene_data import to_data
from lora_graph.ir import Graph
from lora_graph.ir.graph import Note
from tests.inspect.graphs import GRAPHS, X, chain, fan, tangled


@pytest.fixture(scope="module", params=GRAPHS)
def layout(request: pytest.FixtureRequest) -> Layout:
    return lay_out(scene_of(GRAPHS[request.param]))


def rectangle(boxes: object, index: int) -> tuple[int, int, int, int]:
    x, y, w, h = (getattr(boxes, name)[index] for name in "xywh")
    return x, y, x + w, y + h


def siblings(layout: Layout) -> Iterator[list[tuple[int, int, int, int]]]:
    """The boxes in each block."""
    size = len(layout.scene.nodes)
    for block in layout.blocks:
        yield [
            rectangle(layout.nodes, item) if item < size else rectangle(layout.areas, item - size)
            for item in block.items
        ]


def test_boxes_do_not_overlap(layout: Layout) -> None:
    for boxes in siblings(layout):
        boxes.sort(key=lambda box: box[1])
        for index, (left, _, right, bottom) in enumerate(boxes):
            for other in boxes[index + 1 :]:
                if other[1] >= bottom:
                    break
                assert other[0] >= right + 12 or other[2] <= left - 12


def test_what_is_in_a_block_is_inside_its_box(layout: Layout) -> None:
    for number, boxes in enumerate(siblings(layout)):
        left, top, right, bottom = rectangle(layout.areas, number)
        for box in boxes:
            assert left < box[0]
            assert top < box[1]
            assert box[2] < right
            assert box[3] < bottom


def test_edges_go_down(layout: Layout) -> None:
    nodes, points = layout.nodes, layout.points
    for edge, end in zip(layout.scene.edges, layout.ends, strict=True):
        below = nodes.y[edge.target]
        while end >= 0:
            assert points.y[end] <= below
            below, end = points.y[end], points.parent[end]
        assert nodes.y[edge.source] + nodes.h[edge.source] <= below
        assert nodes.y[edge.source] + nodes.h[edge.source] < nodes.y[edge.target]


def test_wires_with_lanes_keep_clear_of_boxes(layout: Layout) -> None:
    """The upright pieces of wires, which are those beside boxes, touch none."""
    points = layout.points
    for block, boxes in enumerate(siblings(layout)):
        pieces = [
            (points.x[p], points.y[points.parent[p]], points.y[p])
            for p in range(len(points.x))
            if points.block[p] == block and points.parent[p] >= 0 and points.x[points.parent[p]] == points.x[p]
        ]
        for x, top, bottom in pieces:
            assert not [box for box in boxes if box[0] < x < box[2] and box[1] < bottom and box[3] > top]


def test_every_node_is_placed_once(layout: Layout) -> None:
    size = len(layout.scene.nodes)
    placed = [item for block in layout.blocks for item in block.items]
    assert sorted(placed) == [item for item in range(size + len(layout.blocks)) if item != size]
    for number, block in enumerate(layout.blocks):
        for item in block.items:
            parent = layout.block_of[item] if item < size else layout.blocks[item - size].parent
            assert parent == number


def test_blocks_are_the_modules_of_their_nodes(layout: Layout) -> None:
    for node, block in zip(layout.scene.nodes, layout.block_of, strict=True):
        if node.kind == "op":
            assert layout.blocks[block].path == node.module


def test_a_block_holds_no_more_than_one_part_of_a_module_unless_modules_need_one_another() -> None:
    for name in ("nested", "residual"):
        paths = [block.path for block in nest(scene_of(GRAPHS[name])).blocks]
        assert len(paths) == len(set(paths)) == {"nested": 51, "residual": 13}[name]


def test_modules_that_need_one_another_are_cut_where_they_have_to() -> None:
    """a → b → a: two boxes for a, one for b."""
    first, second, third = (h := ops.tanh(X)), (h := ops.exp(h)), ops.tanh(h)
    notes = {first: Note(scope="a"), second: Note(scope="b"), third: Note(scope="a")}
    nesting = nest(scene_of(Graph((X,), {"y": third}, notes)))
    assert [block.path for block in nesting.blocks] == ["", "a", "b", "a"]


def test_a_module_with_nothing_but_one_module_in_it_is_one_box_with_it() -> None:
    h = ops.tanh(X)
    nesting = nest(scene_of(Graph((X,), {"y": h}, {h: Note(scope="model.encoder.0")})))
    assert [(block.path, block.label) for block in nesting.blocks[1:]] == [("model.encoder.0", "model.encoder.0")]


def test_a_chain_is_one_straight_line() -> None:
    layout = lay_out(scene_of(GRAPHS["chain"]))
    assert len({x + w // 2 for x, w in zip(layout.nodes.x, layout.nodes.w, strict=True)}) == 1
    assert not layout.points.x


def test_a_chain_with_constants_beside_it_is_straight_as_well() -> None:
    h = X
    for index in range(50):
        h = ops.tanh(h * (index + 1.5))
    layout = lay_out(scene_of(Graph((X,), {"y": h})))
    computed = [node.id for node in layout.scene.nodes if node.kind == "op"]
    middles = [layout.nodes.x[node] + layout.nodes.w[node] / 2 for node in computed]
    assert max(middles) - min(middles) <= 2


def test_a_parameter_stands_just_above_its_user() -> None:
    h = X
    for _ in range(5):
        h = ops.tanh(h)
    layout = lay_out(scene_of(Graph((X,), {"y": h @ ops.parameter("w", "float32", (4, 4))})))
    (node,) = [node.id for node in layout.scene.nodes if node.kind == "parameter"]
    (user,) = [edge.target for edge in layout.scene.edges if edge.source == node]
    assert 0 < layout.nodes.y[user] - layout.nodes.y[node] - layout.nodes.h[node] <= 30


def test_passes_keep_what_they_do_not_change_where_it_is() -> None:
    """One layout for all stages: a stage is a choice among the same boxes, and all it has are there."""
    layer = lg.StandardLoRAAdapter(lg.DenseLayer(8, 8, "tanh", rng=0), rank=2, site="weight", rng=0)
    graph, _, report = lg.optimize(layer, "deploy")
    scene = scene_of(report.passes[0].before, report=report)
    layout = lay_out(scene)
    tanh = {node.id for node in scene.nodes if node.op == "Tanh"}
    assert len(tanh) == 1
    assert all(tanh <= stage.nodes for stage in scene.stages)
    assert len(layout.nodes.x) == len(scene.nodes)
    assert (
        len(scene.stages[-1].nodes)
        == len([v for v in graph.values if v.operands or v in graph.inputs or v in graph.parameters.values()]) + 1
    )


def test_the_same_scene_gives_the_same_data() -> None:
    first, second = (json.dumps(to_data(scene_of(tangled(3)))) for _ in range(2))
    assert first == second


def test_data_are_columns_of_one_length_and_json() -> None:
    scene = scene_of(tangled(1))
    data = json.loads(json.dumps(to_data(scene)))
    assert {len(column) for column in data["nodes"].values()} == {len(scene.nodes)}
    assert {len(column) for column in data["edges"].values()} == {len(scene.edges)}
    assert len({len(column) for column in data["points"].values()}) == 1
    assert len({len(column) for column in data["blocks"].values()}) == 1
    titles = [data["strings"][place] for place in data["nodes"]["op"]]
    assert titles == [node.op for node in scene.nodes]
    (stage,) = data["stages"]
    assert stage["nodes"] == [[0, len(scene.nodes)]]
    assert stage["edges"] == [[0, len(scene.edges)]]


@pytest.mark.parametrize("graph", [chain(10_000), fan(5_000)], ids=["chain", "fan"])
def test_ten_thousand_nodes_are_laid_out(graph: Graph) -> None:
    scene: Scene = scene_of(graph)
    layout = lay_out(scene)
    assert len(scene.nodes) > 10_000 == len(layout.nodes.x) - len(scene.nodes) + 10_000
    assert len(set(zip(layout.nodes.x, layout.nodes.y, strict=True))) == len(scene.nodes)


def test_wires_that_would_be_too_long_go_straight() -> None:
    """Every value of a chain is used again in the opposite order, as in a backward pass: lanes would be n²/2 cells."""
    forward = [X]
    for _ in range(600):
        forward.append(ops.tanh(forward[-1]))
    back = forward[-1]
    for value in reversed(forward):
        back = back * value
    layout = lay_out(scene_of(Graph((X,), {"y": back})))
    assert len(layout.points.x) < 20_000


def test_rows_are_the_nearest_to_what_is_wanted_that_does_not_overlap() -> None:
    """Two boxes of width 10 below one: both want to be at its middle and stand beside it, evenly."""
    uppers = [[], [(0, 0.0, 1.0)], [(0, 0.0, 1.0)]]
    lowers = [[(1, 0.0, 1.0), (2, 0.0, 1.0)], [], []]
    x = place_rows([[0], [1, 2]], [5.0] * 3, [4.0] * 3, uppers, lowers)
    assert np.allclose(np.array(x) - x[0], [0, -7, 7])


def test_topological_order_keeps_the_given_one_where_it_can() -> None:
    assert topological([[2], [2], [], [0]]) == [1, 3, 0, 2]
