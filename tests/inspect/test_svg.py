"""Drawings are well-formed, inert and deterministic; folding moves boxes together and never over one another."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

import lora_graph as lg
from lora_graph import ops
from lora_graph.inspect.drawing import diff_picture, profile_picture, readable_depth
from lora_graph.inspect.folding import Squeeze, View, fold, folded_below
from lora_graph.inspect.inspected import Inspected
from lora_graph.inspect.layout import lay_out
from lora_graph.inspect.scene import SceneMaker, scene_of
from lora_graph.inspect.svg import HEAT, boxes_at, svg
from lora_graph.ir import Graph
from lora_graph.ir.graph import Note
from tests.inspect.graphs import GRAPHS, X, residual

SVG = "{http://www.w3.org/2000/svg}"


def texts(image: str) -> list[str]:
    return [element.text or "" for element in ET.fromstring(image).iter(f"{SVG}text")]


def rectangles(image: str, kind: str) -> list[ET.Element]:
    return [r for r in ET.fromstring(image).iter(f"{SVG}rect") if kind in r.get("class", "").split()]


@pytest.mark.parametrize("depth", [None, 0, 1])
@pytest.mark.parametrize("name", GRAPHS)
def test_every_drawing_is_xml_and_draws_each_node_or_the_block_around_it(name: str, depth: int | None) -> None:
    scene = scene_of(GRAPHS[name])
    layout = lay_out(scene)
    image = svg(layout, depth=depth, constants=True)
    kinds = [
        node.kind for node in scene.nodes if depth is None or layout.blocks[layout.block_of[node.id]].depth <= depth
    ]
    for kind in ("op", "input", "parameter", "constant", "output"):
        assert len(rectangles(image, kind)) == kinds.count(kind)


def test_the_boxes_of_a_graph_say_what_they_are() -> None:
    w = ops.parameter("fc.weight", "float32", (4, 3))
    product = X @ w
    graph = Graph((X,), {"y": ops.relu(product) * 2.0}, {product: Note(scope="fc")})
    assert texts(svg(scene_of(graph))) == [
        *["fc", "x", "batch × 4", "weight", "4 × 3", "MatMul", "batch × 3"],
        *["Relu", "batch × 3", "Mul 2.0", "batch × 3", "y", "batch × 3"],
    ]
    assert "2.0" in texts(svg(scene_of(graph), constants=True))


def test_a_drawing_is_the_same_bytes_every_time() -> None:
    assert svg(scene_of(residual(5))) == svg(scene_of(residual(5)))


HOSTILE = {
    "script": "<script>alert(1)</script>",
    "quotes": "\"'><img src=x onerror=alert(1)>",
    "cdata": "]]></title><script>",
    "long": "n" * 10_000,
    "override": "\u202egnp.exe",
    "control": "a\x00b\x1b[31m\ud800",
    "entity": "&lt;b&gt; &amp;",
}


@pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE)
def test_hostile_names_are_inert(name: str) -> None:
    x = ops.input(name, "float32", (2,))
    w = ops.parameter(f"w{name}", "float32", (2,))
    y = x * w
    graph = Graph((x,), {f"y{name}": y}, {y: Note(name, scope=f"m{name}")}, name)
    for image in (svg(scene_of(graph)), svg(scene_of(graph), depth=0), graph._repr_html_() or ""):
        assert "<script" not in image
        assert "<img" not in image
        assert not re.search("[\u202a-\u202e\u2066-\u2069\x00-\x09\x0b-\x1f\ud800]", image)
    root = ET.fromstring(svg(scene_of(graph)))
    allowed = {"svg", "title", "style", "rect", "g", "path", "text"}
    assert {element.tag.removeprefix(SVG) for element in root.iter()} <= allowed
    assert not [key for element in root.iter() for key in element.attrib if key.startswith("on") or "href" in key]
    assert max(len(element.text or "") for element in root.iter(f"{SVG}text")) < 60


def overlaps(view: View) -> list[tuple[object, object]]:
    """Pairs of boxes, nodes or folded blocks, that touch."""
    boxes = sorted(
        [*view.nodes.items(), *((f"block {b}", box) for b, box in view.folded.items())], key=lambda i: i[1][1]
    )
    found = []
    for index, (one, (x, y, w, h)) in enumerate(boxes):
        for other, (left, top, width, _) in boxes[index + 1 :]:
            if top >= y + h:
                break
            if left < x + w and x < left + width:
                found.append((one, other))
    return found


@pytest.mark.parametrize("depth", [None, 0, 1, 2])
@pytest.mark.parametrize("name", GRAPHS)
def test_folding_leaves_no_overlap_and_keeps_edges_going_down(name: str, depth: int | None) -> None:
    layout = lay_out(scene_of(GRAPHS[name]))
    constants = [node.id for node in layout.scene.nodes if node.kind == "constant"]
    for hidden in ([], constants):
        view = fold(layout, folded=folded_below(layout, depth), hidden=hidden)
        assert not overlaps(view)
        assert all(link.y0 <= link.y1 for link in view.links)
        for x, y, w, h in [*view.nodes.values(), *view.folded.values()]:
            assert 0 <= x <= x + w <= view.width
            assert 0 <= y <= y + h <= view.height


@pytest.mark.parametrize("depth", [None, 0, 1])
def test_every_edge_between_two_boxes_that_show_has_a_way(depth: int | None) -> None:
    layout = lay_out(scene_of(GRAPHS["tangled2"]))
    view = fold(layout, folded=folded_below(layout, depth))
    closed = {b for b, block in enumerate(layout.blocks) if depth is not None and block.depth > depth}

    def shown(node: int) -> int:
        """The box a node is seen as; blocks count from -1 downwards."""
        block, found = layout.block_of[node], node
        while block > 0:
            if block in closed:
                found = -1 - block
            block = layout.blocks[block].parent
        return found

    ways = {(shown(e.source), shown(e.target)) for e in layout.scene.edges}
    targets = {into for out, into in ways if out != into}
    boxes = {**view.nodes, **{-1 - block: box for block, box in view.folded.items()}}
    tips = {(link.x1, link.y1) for link in view.links if link.ends}
    for target in targets:
        x, y, w, _ = boxes[target]
        assert any(y == tip_y and x <= tip_x <= x + w for tip_x, tip_y in tips)
    assert len({(link.x1, link.y1) for link in view.links if link.ends}) >= len(targets)


def test_folding_makes_a_drawing_smaller() -> None:
    layout = lay_out(scene_of(residual(10)))
    opened, folded = fold(layout), fold(layout, folded=folded_below(layout, 0))
    assert folded.height < 0.7 * opened.height
    assert folded.width < opened.width
    assert len(folded.folded) == 10


def test_a_squeeze_takes_away_what_is_outside_of_intervals() -> None:
    squeeze = Squeeze([(10, 20), (15, 25), (40, 50)])
    assert [squeeze(at) for at in (0, 10, 12, 25, 30, 40, 45, 50, 99)] == [0, 0, 2, 15, 15, 15, 20, 25, 25]
    assert Squeeze([])(7) == 0


def test_a_stage_is_chosen_by_name_or_number() -> None:
    layer = lg.StandardLoRAAdapter(lg.DenseLayer(8, 8, rng=0), rank=2, site="weight", rng=0)
    _, _, report = lg.optimize(layer, "deploy")
    scene = scene_of(report.passes[0].before, report=report)
    assert "Gemm" in texts(svg(scene))
    assert "Gemm" not in texts(svg(scene, stage=0))
    assert svg(scene, stage="merge") == svg(scene, stage=3)
    assert "Gemm" in texts(svg(lay_out(scene), stage="fuse Gemm"))
    for wrong in ("nonsense", 99):
        with pytest.raises(ValueError, match="model, fold constants, unfuse"):
            svg(scene, stage=wrong)


def test_marks_and_adapters_have_colours_and_words() -> None:
    a = ops.parameter("A", "float32", (4, 4))
    left, right = ops.tanh(X), ops.tanh(X @ a)
    making = SceneMaker("both", ["A"], {})
    making.add("left", Graph((X,), {"y": left}))
    making.add("right", Graph((X,), {"y": right}), {right: left})
    scene = making.scene({}, {right.operands[0]: "added"})
    image = svg(scene, stage="right")
    assert len(rectangles(image, "added")) == 1 + 1
    assert texts(image)[-2:] == ["adapter", "added"]
    assert "added" not in texts(svg(scene, stage="left"))


def fills(image: str) -> dict[str, str]:
    """The shade of each op by its first word."""
    groups = [g for g in ET.fromstring(image).iter(f"{SVG}g") if g.find(f"{SVG}rect") is not None]
    found = {}
    for group in groups:
        box, said = group.find(f"{SVG}rect"), group.find(f"{SVG}text")
        if box is not None and said is not None and "op" in box.get("class", ""):
            found[str(said.text)] = box.get("style", "")
    return found


def test_heat_shades_by_a_metric() -> None:
    y, z = ops.tanh(X), ops.exp(ops.tanh(X))
    metrics = {"flops": {y: 25.0, z: 100.0}}
    scene = scene_of(Graph((X,), {"z": ops.relu(z)}), metrics=metrics)
    assert fills(svg(scene, heat="flops")) == {
        "Tanh": f"fill:{HEAT[3]}",
        "Exp": f"fill:{HEAT[6]}",
        "Relu": f"fill:{HEAT[0]}",
    }
    assert texts(svg(scene, heat="flops"))[-1] == "the darker, the more flops"
    assert set(fills(svg(scene)).values()) == {""}
    with pytest.raises(ValueError, match="flops"):
        svg(scene, heat="time")
    layer = lg.DenseLayer(8, 4, "relu", rng=0)
    assert fills(lg.picture(layer, heat="flops"))["MatMul"] == f"fill:{HEAT[6]}"


def test_a_profile_is_drawn_with_the_slowest_node_darkest(tmp_path: Path) -> None:
    report = lg.profile(lg.DenseLayer(256, 256, "relu", rng=0), warmup=0, repeat=2)
    image = profile_picture(report, tmp_path / "profile.svg")
    assert (tmp_path / "profile.svg").read_text() == image
    slowest = max(report.seconds, key=report.seconds.__getitem__)
    assert [op for op, fill in fills(image).items() if fill == f"fill:{HEAT[6]}"] == [slowest.op.name]


def test_two_models_side_by_side_stand_at_the_same_height(tmp_path: Path) -> None:
    base = lg.DenseLayer(8, 4, "relu", rng=0)
    report = lg.diff(base, lg.StandardLoRAAdapter(lg.DenseLayer(8, 4, "relu", rng=0), rank=2, site="weight", rng=0))
    path = tmp_path / "diff.svg"
    image = diff_picture(report, path)
    assert path.read_text() == image
    assert len(rectangles(image, "added")) == 6 + 1
    assert texts(image)[0] == "DenseLayer"
    assert "StandardLoRAAdapter" in texts(image)
    heights = {
        said: [text.get("y") for text in ET.fromstring(image).iter(f"{SVG}text") if text.text == said]
        for said in ("x", "Relu", "bias", "y")
    }
    assert {len(places) for places in heights.values()} == {2}
    assert {len(set(places)) for places in heights.values()} == {1}


def test_the_depth_is_chosen_so_that_a_picture_stays_readable() -> None:
    layout = lay_out(scene_of(residual(40)))
    assert boxes_at(layout, 0) < 100 < boxes_at(layout, 1)
    assert readable_depth(layout, 100) == 0
    assert readable_depth(layout, 1000) is None
    assert readable_depth(layout, 3) == 0


def test_a_picture_of_a_model_is_written_as_a_whole(tmp_path: Path) -> None:
    layer = lg.StandardLoRAAdapter(lg.DenseLayer(8, 8, rng=0), rank=2, site="weight", rng=0)
    path = tmp_path / "layer.svg"
    text = lg.picture(layer, path, preset="deploy")
    assert path.read_text() == text == lg.picture(Inspected.of(layer), preset="deploy")
    assert [path.name for path in tmp_path.iterdir()] == ["layer.svg"]
    assert "Gemm" in texts(text)
    assert "operations: " in text
    with pytest.raises(ValueError, match="preset"):
        lg.picture(layer, tmp_path / "other.svg", preset="nonsense")
    assert not (tmp_path / "other.svg").exists()
    with pytest.raises(ValueError, match="depth must be at least 0, got -1"):
        lg.picture(layer, depth=-1)
    with pytest.raises(TypeError, match="constants must be a bool"):
        lg.picture(layer, constants=1)  # type: ignore[arg-type]


PICTURES = Path(__file__).parents[2] / "docs"


def pictured() -> lg.Layer:
    """The layer of the README's pictures."""
    return lg.StandardLoRAAdapter(lg.DenseLayer(64, 10, "relu", rng=0), rank=4, alpha=8, site="weight", rng=0)


@pytest.mark.parametrize(("name", "preset"), [("lora", None), ("lora-merging", "merge"), ("lora-merged", "deploy")])
def test_the_pictures_of_the_readme_are_what_is_drawn_now(name: str, preset: str | None) -> None:
    assert (PICTURES / f"{name}.svg").read_text() == lg.picture(pictured(), preset=preset)


def test_the_picture_of_the_demo_is_what_is_drawn_now() -> None:
    models = PICTURES.parent / "exported_models"
    assert (models / "lora.svg").read_text() == lg.picture(models / "lora.onnx", depth=1)
