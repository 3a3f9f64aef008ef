"""The page in a browser: what it shows, and what it does when it is clicked, typed at and scrolled."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lora_graph as lg
from lora_graph.inspect.inspected import Inspected
from lora_graph.inspect.page.model import model_page
from tests.inspect.browser import OpenPage, start_driver
from tests.inspect.page_data import NEW, N, dense, dense_diff, dense_stages, page_data

pytestmark = pytest.mark.browser

ARROWS = {"up": "\ue013", "down": "\ue015", "left": "\ue012", "right": "\ue014"}
ENTER, ESCAPE, SHIFT, BACKSPACE = "\ue007", "\ue00c", "\ue008", "\ue003"
Opener = Callable[[Mapping[str, Any]], OpenPage]


@pytest.fixture(scope="module")
def driver() -> Iterator[Any]:
    found = start_driver()
    yield found
    found.quit()


@pytest.fixture
def show(driver: Any, tmp_path: Path) -> Iterator[Opener]:
    """Opens a page; at the end it must have complained of nothing and asked for nothing but itself."""
    path = tmp_path / "page.html"
    opened: list[OpenPage] = []

    def opener(data: Mapping[str, Any]) -> OpenPage:
        opened.append(OpenPage(driver, path, data))
        return opened[-1]

    yield opener
    assert opened[-1].complaints() == []
    assert set(opened[-1].requests()) <= {path.as_uri(), "data:,"}


@pytest.fixture
def layer(show: Opener) -> OpenPage:
    return show(page_data(dense(), dense_stages(), name="dense.onnx", summary=[["parameters", "240"]]))


def stack(layers: int) -> list[N]:
    """A chain of modules, each with modules in it."""
    nodes = [N("x", "Input", kind="input")]
    before = "x"
    for i in range(layers):
        for part in ("attention", "mlp"):
            path = f"layer.{i}.{part}"
            nodes.append(N(f"{path}.weight", "Parameter", kind="parameter", module=path))
            nodes.append(N(f"{path}.product", "MatMul", [before, f"{path}.weight"], path))
            nodes.append(N(f"{path}.active", "Gelu", [f"{path}.product"], path))
            before = f"{path}.active"
    return [*nodes, N("y", "Output", [before], kind="output")]


def apart(page: OpenPage) -> bool:
    return all(a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1] for a, b in combinations(page.boxes(), 2))


def test_it_shows_the_model_and_its_summary(layer: OpenPage) -> None:
    assert layer.text("title") == "dense.onnx"
    assert "parameters\n240" in layer.text("panel")
    assert layer.is_drawn("h")
    assert apart(layer)
    assert len(set(layer.pixels(0, 0, 900, 700))) > 20


def test_nothing_overlaps_at_1280_by_800(layer: OpenPage) -> None:
    script = """
    return [...document.querySelectorAll("header > *, footer > *")]
      .filter((element) => element.getClientRects().length && !element.matches(".space"))
      .map((element) => { const r = element.getBoundingClientRect(); return [r.left, r.top, r.right, r.bottom] })"""
    boxes = layer.run(script)
    assert len(boxes) > 8
    assert all(left >= 0 and right <= 1280 and top >= 0 and bottom <= 800 for left, top, right, bottom in boxes)
    assert all(a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1] for a, b in combinations(boxes, 2))


def test_constants_are_hidden_until_they_are_wanted(layer: OpenPage) -> None:
    assert not layer.is_drawn("two")
    layer.element("constants").click()
    assert layer.is_drawn("two")
    assert apart(layer)
    layer.press("w")
    assert not layer.is_drawn("lora.A")
    layer.press("c")
    assert not layer.is_drawn("two")


def test_a_click_tells_all_of_a_node(layer: OpenPage) -> None:
    layer.click("up")
    panel = layer.text("panel")
    assert layer.selected() == layer.item("up")
    for text in ("MatMul", "float32[batch, 16]", "adapter", "contraction", "128 FLOP", "in lora", "Operands", "Users"):
        assert text in panel
    layer.click("out")
    assert "axis\n-1" in layer.text("panel")
    assert "mean\n0.0625" in layer.text("panel")
    assert "Softmax, float32[batch, 16]" in layer.element("spoken").get_attribute("textContent")
    layer.pointer(30, 120).click().perform()
    assert layer.selected() == -1


def test_a_link_leads_to_the_pass_in_which_a_source_lived(layer: OpenPage) -> None:
    layer.press("]", "]")
    layer.click("gemm")
    panel = layer.element("panel")
    assert "made by merge, gemm" in panel.text
    (link,) = [a for a in panel.find_elements("tag name", "a") if a.text == "MatMul"]
    link.click()
    assert layer.selected() == layer.item("h")
    assert layer.text("pass").startswith("simplify")


def test_a_module_closes_and_opens(layer: OpenPage) -> None:
    before = layer.at("lora")
    layer.double_click("lora")
    assert layer.is_drawn("lora")
    assert not layer.is_drawn("up")
    assert apart(layer)
    after = layer.at("lora")
    assert abs(before[0] - after[0]) < 3
    assert abs(before[1] - after[1]) < 40
    assert "nodes\n6\nweights\n2\nof an adapter\n5" in layer.text("panel")
    layer.press(ENTER)
    assert layer.is_drawn("up")
    layer.click("lora")
    layer.press(ENTER)
    assert not layer.is_drawn("up")
    layer.press(ENTER)
    layer.click("up")
    layer.press(BACKSPACE)
    assert layer.selected() == layer.item("lora")


def test_modules_open_level_by_level(show: Opener) -> None:
    page = show(page_data(stack(3)))
    for depth, seen, hidden in (("0", ["layer"], ["0", "mlp"]), ("1", ["0", "1", "2"], ["mlp"]), ("2", ["mlp"], [])):
        page.run(
            "const d = document.getElementById('depth'); d.value = arguments[0]; d.dispatchEvent(new Event('change'))",
            depth,
        )
        assert all(page.is_drawn(name) for name in seen), depth
        assert not any(page.is_drawn(name) for name in hidden), depth
        assert apart(page)


def test_the_search_finds_leads_and_lights_up(layer: OpenPage) -> None:
    layer.double_click("lora")
    layer.press("/")
    layer.press("matmul")
    assert layer.text("found") == "3"
    assert layer.run("return loraGraph.matches.inside[arguments[0]]", layer.item("lora")) == 2
    layer.press(ENTER)
    assert layer.text("found") == "1 / 3"
    assert layer.selected() == layer.item("h")
    layer.press(ENTER)
    assert layer.selected() == layer.item("down")
    assert layer.is_drawn("down")
    layer.act().key_down(SHIFT).send_keys(ENTER).key_up(SHIFT).perform()
    assert layer.selected() == layer.item("h")
    for query, names in (
        ("axis", ["out"]),
        ("attr:axis", ["out"]),
        ("type:float32 4]", ["lora.A", "down"]),
        ('type:"batch, 4]"', ["down"]),
        ("op:mul in:lora", ["down", "up", "scaled"]),
        ("name:base.weight", ["base.weight"]),
        ("nothing like it", []),
    ):
        layer.run(
            "const s = document.getElementById('search'); s.value = arguments[0]; s.dispatchEvent(new Event('input'))",
            query,
        )
        assert layer.run("return loraGraph.matches.nodes") == [layer.item(name) for name in names], query
    layer.press(ESCAPE)
    assert layer.element("search").get_attribute("value") == ""
    assert layer.text("found") == ""


def test_the_slider_goes_through_the_passes_and_nodes_keep_their_places(layer: OpenPage) -> None:
    assert layer.text("pass") == "model 1 of 3 · 0 new, 0 gone"
    before = {name: layer.place(name) for name in ("x", "base.bias", "h")}
    layer.element("later").click()
    assert layer.text("pass") == "simplify 2 of 3 · 0 new, 0 gone"
    layer.press("]")
    assert layer.text("pass").startswith("merge 3 of 3 · 4 new, ")
    assert {name: layer.place(name) for name in before} == before
    assert {layer.mark(name) for name in NEW} == {"added"}
    assert layer.mark("h") == "removed"
    assert layer.mark("x") == ""
    assert layer.is_drawn("h"), "what has gone is a ghost"
    layer.press("k")
    assert not layer.is_drawn("h")
    assert layer.is_drawn("gemm")
    layer.press("[", "[", "[")
    assert layer.text("pass").startswith("model")
    slider = layer.element("slider")
    slider.send_keys(ARROWS["right"])
    assert layer.text("pass").startswith("simplify")


def test_two_passes_side_by_side(layer: OpenPage) -> None:
    layer.press("]", "]", "s")
    assert [layer.text("name0"), layer.text("name1")] == ["model", "merge"]
    assert layer.is_drawn("h", 0)
    assert not layer.is_drawn("h", 1)
    assert [layer.mark("h", 0), layer.mark("gemm", 1)] == ["removed", "added"]
    layer.press("s")
    assert not layer.element("pane1").is_displayed()


def test_a_diff_shows_both_sides_under_one_view(show: Opener) -> None:
    page = show(dense_diff())
    assert [page.text("name0"), page.text("name1")] == ["parallel.onnx", "merged.onnx"]
    assert page.is_drawn("down", 0)
    assert not page.is_drawn("down", 1)
    assert page.mark("gemm", 1) == "fused"
    assert page.mark("base.bias", 0) == page.mark("base.bias", 1) == "weights"
    left, right = page.at("x", 0), page.at("x", 1)
    assert left[1] == right[1]
    page.click("x", 1)
    assert page.selected() == page.item("x")
    legend = page.text("legend")
    for text in ("only on the left", "only on the right", "several fused into one", "other weights"):
        assert text in legend
    page.press(ESCAPE)
    links = page.element("panel").find_elements("tag name", "a")
    assert [link.text for link in links][2] == "base.bias: norm 0.31 (2.1 %), rank 1"
    links[1].click()
    assert page.selected() == page.item("gemm")
    page.press("n")
    assert page.selected() == page.item("base.bias")
    page.press("p")
    assert page.selected() == page.item("gemm")


def test_heat_is_shared_out_over_boxes_and_modules(layer: OpenPage) -> None:
    layer.press("h")
    assert layer.element("heat").get_attribute("value") == "FLOPs"
    assert "256 FLOP" in layer.text("legend")
    assert layer.run("return loraGraph.heat.total[arguments[0]]", layer.item("lora")) == 64 + 128 + 16
    layer.press("h")
    assert layer.element("heat").get_attribute("value") == ""


def test_light_and_dark(layer: OpenPage) -> None:
    def ground() -> list[int]:
        return layer.pixels(3, 3, 1, 1)

    light = ground()
    layer.element("theme").click()
    dark = ground()
    assert sum(light[:3]) > 600 > 200 > sum(dark[:3])
    layer.press("t")
    assert ground() == light


def test_wheel_drag_and_keys_move_the_view(layer: OpenPage) -> None:
    from selenium.webdriver.common.actions.wheel_input import ScrollOrigin

    x, y = layer.at("sum")
    before = layer.view()
    layer.act().scroll_from_origin(ScrollOrigin.from_viewport(x, y), 0, -200).perform()
    assert layer.view()[0] > before[0]
    assert abs(layer.at("sum")[0] - x) < 2, "what is under the pointer stays"
    assert abs(layer.at("sum")[1] - y) < 2
    before = layer.view()
    layer.pointer(40, 200).click_and_hold().move_by_offset(60, 25).release().perform()
    assert layer.view() == pytest.approx((before[0], before[1] + 60, before[2] + 25))
    layer.press("0")
    fitted = layer.view()
    layer.press("+", "+", "-")
    assert layer.view()[0] == pytest.approx(fitted[0] * 1.3)
    layer.element("fit").click()
    assert layer.view() == pytest.approx(fitted)


def test_two_fingers_zoom(layer: OpenPage) -> None:
    before = layer.view()[0]

    def touch(kind: str, *points: tuple[int, int]) -> None:
        touches = [{"x": x, "y": y, "id": i} for i, (x, y) in enumerate(points)]
        layer.driver.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": kind, "touchPoints": touches})

    touch("touchStart", (400, 400), (500, 400))
    touch("touchMove", (350, 400), (550, 400))
    touch("touchEnd")
    assert layer.view()[0] == pytest.approx(2 * before, rel=0.02)


def test_arrows_walk_along_the_edges(layer: OpenPage) -> None:
    layer.click("h")
    way = [("down", "biased"), ("down", "sum"), ("down", "out"), ("up", "sum"), ("up", "biased"), ("up", "h")]
    for key, name in way:
        layer.press(ARROWS[key])
        assert layer.selected() == layer.item(name), key
    layer.click("down")
    layer.press(ARROWS["right"])
    assert layer.selected() == layer.item("lora.B")
    layer.press(ARROWS["left"])
    assert layer.selected() == layer.item("down")


def test_everything_can_be_reached_by_keyboard_and_has_a_name(layer: OpenPage) -> None:
    script = """
    return [...document.querySelectorAll("button, input, select, canvas[tabindex]")]
      .filter((element) => element.getClientRects().length)
      .map((element) => [element.id, element.tabIndex,
        element.getAttribute("aria-label") || element.textContent || element.labels[0].textContent])"""
    for identity, index, name in layer.run(script):
        assert index == 0, identity
        assert name, identity
    layer.press("?")
    assert layer.element("keys").is_displayed()
    layer.press(ESCAPE)
    assert not layer.element("keys").is_displayed()


HOSTILE = [
    "<script>window.hit = 1</script>",
    "</script><script>window.hit = 1</script>",
    "\"'><img src=x onerror='window.hit = 1'>",
    "<!--<script>",
    "javascript:window.hit=1",
    "\u202egnp.exe \u2028\u2029 \x00 \ud800",
    "long" * 2500,
    "{data} ${window.hit = 1} \\u003c",
    "__proto__",
    "constructor",
]


def test_hostile_names_are_only_text(show: Opener) -> None:
    nodes = [N("x", "Input", kind="input", type=HOSTILE[0])]
    for text in HOSTILE:
        more = {"attributes": {text: text}, "details": {text: text, "rules": text}, "sources": ["x"]}
        nodes.append(N(text, text, [nodes[-1].name], f"m.{text[:50].replace('.', '')}", type=text, **more))
    names = [node.name for node in nodes]
    stages = {HOSTILE[1]: names, HOSTILE[5]: names[:-1]}
    page = show(page_data(nodes, stages, name=HOSTILE[1], summary=[[HOSTILE[0], HOSTILE[2]]]))
    page.run("loraGraph.setDepth(9)")
    for i in range(len(nodes)):
        page.run("loraGraph.visit(arguments[0]); loraGraph.paint()", i)
    page.run("loraGraph.seek(arguments[0])", "window.hit")
    assert page.run("return loraGraph.matches.count") == 6
    page.press("]", "s", "h", ESCAPE)
    assert page.run("return window.hit") is None
    assert page.run("return document.querySelectorAll('img, script, iframe').length") == 2
    assert "<img src=x" in page.text("panel")
    page.run("loraGraph.visit(arguments[0])", names.index(HOSTILE[5]))
    assert "\\u202egnp.exe" in page.text("panel")
    assert "\u202e" not in page.driver.find_element("tag name", "body").text


def test_the_policy_stops_what_gets_in_all_the_same(driver: Any, tmp_path: Path) -> None:
    page = OpenPage(driver, tmp_path / "page.html", page_data(dense()))
    page.run("const s = document.createElement('script'); s.textContent = 'window.hit = 1'; document.body.append(s)")
    page.run("const i = document.createElement('img'); i.src = 'https://example.com/x.png'; document.body.append(i)")
    assert page.run("return window.hit") is None
    assert sum("Content Security Policy" in text for text in page.complaints()) == 2


def test_ten_thousand_boxes(show: Opener) -> None:
    nodes = [N("x", "Input", kind="input")]
    for i in range(5000):
        nodes.append(N(f"a{i}", "Relu", ["x" if i < 100 else f"a{i - 100}"]))
        nodes.append(N(f"b{i}", "Add", [f"a{i}", nodes[-2].name]))
    page = show(page_data(nodes))
    drawn = "loraGraph.view.fit(); loraGraph.paint(); return loraGraph.panes[0].drawn"
    assert page.run(drawn) == len(nodes)
    near = page.run("loraGraph.visit(arguments[0]); loraGraph.paint(); return loraGraph.panes[0].drawn", 5000)
    assert 0 < near < 500, "what is out of sight is not drawn"


def test_the_page_of_a_real_layer(show: Opener, rng: np.random.Generator) -> None:
    layer = lg.StandardLoRAAdapter(lg.LSTMLayer(6, 8, rng=rng), 2, site="weight", rng=rng)
    page = show(model_page(Inspected.of(layer), preset="deploy", values=True))
    assert "lora of rank 2" in page.text("panel")
    for kept in (True, False):
        page.run("loraGraph.setKept(arguments[0])", kept)
        for stage in range(len(page.data["stages"])):
            page.run("loraGraph.setStage(arguments[0]); loraGraph.paint()", stage)
            assert apart(page), stage
    page.press(ESCAPE, "[", "[", "[")
    assert "fired" in page.text("panel"), "the pass that hoists weights"
    assert page.run("return loraGraph.panes[0].alive.filter(Boolean).length") < len(page.data["nodes"]["op"])
