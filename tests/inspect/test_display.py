"""What notebooks are given of graphs, layers and reports."""

from __future__ import annotations

import subprocess
import sys
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import pytest

import lora_graph as lg
from lora_graph import ops
from lora_graph.display import Shown
from lora_graph.inspect.notebook import TOO_MANY
from lora_graph.ir import Graph
from tests.inspect.graphs import X, chain

VOID = {"br", "hr", "img"}


class Balanced(HTMLParser):
    """Fails where tags are not closed in order; keeps the text, by the tag it is in."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.found: list[tuple[str, str]] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open.append(tag)
        assert not [name for name, _ in attrs if name.startswith("on")]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.found.append((self.open[-1] if self.open else "", data))

    def texts(self, tag: str) -> list[str]:
        return [text for inside, text in self.found if inside == tag]


@pytest.fixture(scope="module")
def layer() -> lg.Layer:
    return lg.StandardLoRAAdapter(lg.DenseLayer(8, 4, rng=0), rank=2, site="weight", rng=0)


def test_a_graph_shows_itself_as_a_drawing() -> None:
    graph = Graph((X,), {"y": ops.tanh(X)}, name="net")
    image = graph._repr_svg_()
    assert image is not None
    assert ET.fromstring(image).tag.endswith("svg")
    page = Balanced(graph._repr_html_() or "")
    assert "Tanh" in page.texts("text")
    assert any(text.startswith("graph net(") for text in page.texts("pre"))


def test_a_layer_shows_its_graph_its_sizes_and_its_adapter(layer: lg.Layer) -> None:
    page = layer._repr_html_() or ""
    found = Balanced(page)
    assert any("60 parameters, 24 of them trainable" in text for text in found.texts("div"))
    assert "adapter" in found.texts("text")
    assert layer._repr_svg_() in page  # type: ignore[operator]


def test_a_report_shows_its_passes(layer: lg.Layer) -> None:
    _, _, report = lg.optimize(layer, "deploy")
    page = Balanced(report._repr_html_() or "")
    assert report._repr_svg_() is None
    for record in report.passes:
        assert record.name in page.texts("td")
    assert "merge_bypass ×1" in " ".join(page.texts("td"))
    assert len(page.texts("th")) == 5


def test_a_check_shows_its_comparisons(layer: lg.Layer) -> None:
    report = lg.check(layer, batch_sizes=(2,))
    page = Balanced(report._repr_html_() or "")
    assert page.texts("caption") == [f"{report.model}: within tolerance"]
    assert [c.pair for c in report.comparisons] == [text for text in page.texts("td") if " / " in text]


def test_a_diff_shows_both_graphs(layer: lg.Layer) -> None:
    page = Balanced(lg.diff(lg.DenseLayer(8, 4, rng=0), layer)._repr_html_() or "")
    assert page.texts("text").count("MatMul") == 2 + 2
    assert "added" in page.texts("text")
    assert any(text.startswith("DenseLayer → StandardLoRAAdapter: ") for text in page.texts("div"))


def test_a_summary_shows_its_facts(layer: lg.Layer) -> None:
    page = Balanced(lg.summarize(layer)._repr_html_() or "")
    cells = page.texts("td")
    assert cells[cells.index("parameters") + 1].startswith("60 in ")


def test_a_profile_shows_its_text(layer: lg.Layer) -> None:
    report = lg.profile(layer, warmup=0, repeat=1)
    assert "MatMul" in " ".join(Balanced(report._repr_html_() or "").texts("pre"))


def test_a_graph_that_is_too_large_to_draw_is_printed() -> None:
    graph = chain(TOO_MANY + 1)
    assert graph._repr_svg_() is None
    page = graph._repr_html_() or ""
    assert "<svg" not in page
    assert "Tanh" in page


def test_anything_else_is_shown_as_its_text() -> None:
    class Other(Shown):
        def __str__(self) -> str:
            return "<b>&"

    assert Other()._repr_html_() == "<pre>&lt;b&gt;&amp;</pre>"
    assert Other()._repr_svg_() is None


def test_showing_is_learned_when_it_is_first_needed() -> None:
    script = """
import sys
from lora_graph.ir import Graph
from lora_graph import ops
x = ops.input("x", "float32", (2,))
graph = Graph((x,), {"y": ops.tanh(x)})
assert "lora_graph.inspect" not in sys.modules
assert "<svg" in graph._repr_html_()
"""
    subprocess.run([sys.executable, "-c", script], check=True)
