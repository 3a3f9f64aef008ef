"""The page as text: what is embedded cannot become markup, and the policy lets in nothing but the page's own parts."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from lora_graph.inspect import page
from lora_graph.inspect.page import SCRIPTS, STYLES, embedded, page_html, write_page
from lora_graph.ir.op import OPS
from tests.inspect.page_data import N, dense, page_data

MARKUP = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser"
HOSTILE = "</script><script>alert(1)</script><!-- \u2028\u2029 & \u202e \ud800 '\" {data}"


class Elements(HTMLParser):
    """The elements of a page in order, with their attributes and the text before what comes next."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None], str]] = []
        self.is_open = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs), ""))
        self.is_open = True

    def handle_endtag(self, tag: str) -> None:
        self.is_open = False

    def handle_data(self, data: str) -> None:
        if self.is_open:
            tag, attributes, text = self.found[-1]
            self.found[-1] = (tag, attributes, text + data)

    def all(self, tag: str) -> list[tuple[dict[str, str | None], str]]:
        return [(attributes, text) for name, attributes, text in self.found if name == tag]


def test_what_is_embedded_comes_back_and_has_no_markup() -> None:
    data = {"name": HOSTILE, "list": [HOSTILE, 1, 2.5, None]}
    text = embedded(data)
    assert not set("<>&") & set(text)
    assert text.isascii()
    assert json.loads(text) == data


def test_numbers_that_json_does_not_know_are_refused() -> None:
    with pytest.raises(ValueError, match="JSON"):
        page_html({"name": "x", "value": float("nan")})


def test_hostile_text_adds_no_element() -> None:
    plain = Elements(page_html(page_data([N("x", "Input", kind="input")], name="model")))
    found = Elements(page_html(page_data([N(HOSTILE, HOSTILE, module=HOSTILE, type=HOSTILE)], name=HOSTILE)))
    assert [tag for tag, _, _ in found.found] == [tag for tag, _, _ in plain.found]
    ((attributes, text),) = [each for each in found.all("script") if each[0].get("id") == "data"]
    assert attributes["type"] == "application/json"
    assert json.loads(text)["name"] == HOSTILE
    ((_, title),) = found.all("title")
    assert title.startswith("</script><script>alert(1)</script>")
    assert "\u202e" not in title


def test_the_policy_names_the_script_and_the_style_and_nothing_else() -> None:
    found = Elements(page_html(page_data(dense())))
    (policy,) = [a["content"] or "" for a, _ in found.all("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    (style,) = [text for _, text in found.all("style")]
    (script,) = [text for attributes, text in found.all("script") if not attributes]

    def source(text: str) -> str:
        return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"

    assert rules == {
        "default-src": "'none'",
        "script-src": source(script),
        "style-src": source(style),
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
    }


def test_there_are_no_inline_handlers_or_styles_and_no_addresses() -> None:
    found = Elements(page_html(page_data(dense())))
    for _, attributes, _ in found.found:
        assert not [name for name in attributes if name.startswith("on") or name in ("style", "src")]
    assert [a["href"] for a, _ in found.all("link")] == ["data:,"]
    code = "".join(text for attributes, text in [*found.all("script"), *found.all("style")] if not attributes)
    assert not re.findall(rf"https?:|\burl\(|@import|\b(eval|fetch)\b|{MARKUP}", code)


def test_every_part_is_used_once() -> None:
    folder = Path(page.__file__).parent
    assert sorted(SCRIPTS) == sorted(path.stem for path in folder.glob("*.js"))
    assert sorted(STYLES) == sorted(path.stem for path in folder.glob("*.css"))


def test_what_comes_with_the_data_is_small() -> None:
    text = page_html(page_data([N("x", "Input", kind="input")]))
    assert len(gzip.compress(text.encode())) < 40_000


def test_writing_leaves_the_old_page_when_there_is_no_new_one(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    write_page(path, page_data(dense()))
    before = path.read_bytes()
    assert before.startswith(b"<!DOCTYPE html>")
    with pytest.raises(ValueError, match="JSON"):
        write_page(path, {"name": "x", "value": float("inf")})
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["page.html"]


def test_every_op_has_a_colour() -> None:
    script = (Path(page.__file__).parent / "ops.js").read_text()
    known = set(re.findall(r"\b[A-Z]\w+", script))
    uncoloured = {"Absent", "Constant", "Dimension", "Input", "Opaque", "Parameter", "Scan"}
    assert {name for name in OPS if name not in known} == uncoloured
