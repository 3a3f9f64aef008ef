"""What a box says, cut to what fits, and how much room that takes."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from functools import lru_cache

from lora_graph.inspect.scene import Node, Scene

LONGEST = 26
"""Characters of a line in a box."""
SHORT = 8
"""Characters of a number that are said beside the name of an op."""
TITLE, SUBTITLE = 7.2, 6.2
"""Pixels that a character takes, at 12 and at 10.5 pixels of height."""


@dataclass(frozen=True, slots=True)
class Caption:
    """The one or two lines of a box, and its size in pixels."""

    title: str
    subtitle: str
    width: int
    height: int


def captions(scene: Scene) -> list[Caption]:
    """What the box of each node says: an op its name and its type, a leaf what it is called.

    An op of one number, such as a scale, says that number as well, since constants are mostly hidden.
    """
    numbers: dict[int, list[str]] = {}
    for source, target, _ in scene.edges:
        constant = scene.nodes[source]
        if constant.kind == "constant":
            numbers.setdefault(target, []).append(constant.label)
    return [_caption(node, numbers.get(node.id, [])) for node in scene.nodes]


def _caption(node: Node, numbers: list[str]) -> Caption:
    if node.kind == "constant":
        return _small(node.label)
    name = node.op if node.kind == "op" else within(node.label, node.module)
    if node.op == "Project":
        name = f"result {node.attributes['index']}"
    elif len(numbers) == 1 and len(numbers[0]) <= SHORT:
        name = f"{name} {numbers[0]}"
    return _large(name, node.type)


@lru_cache(maxsize=4096)
def _small(text: str) -> Caption:
    title = shorten(text)
    return Caption(title, "", width_of(title, SUBTITLE) + 14, 20)


@lru_cache(maxsize=4096)
def _large(name: str, written: str) -> Caption:
    title, subtitle = shorten(name), shorten(shape_of(written))
    width = max(width_of(title, TITLE), width_of(subtitle, SUBTITLE), 40) + 20
    return Caption(title, subtitle, width, 40)


def within(label: str, module: str) -> str:
    """A name as it is called inside ``module``."""
    return label[len(module) + 1 :] if module and label.startswith(f"{module}.") else label


def shape_of(written: str) -> str:
    """The dimensions of a type, float32[batch, 8] → batch × 8; with the element type unless that is float32."""
    if written.startswith("("):
        return f"{written.count('; ') + 1} results"
    dtype, found, inner = written.partition("[")
    shape = inner.removesuffix("]").replace(", ", " × ") if found else ""
    return shape or "scalar" if dtype == "float32" else f"{dtype} {shape}".strip()


def shorten(text: str, most: int = LONGEST) -> str:
    """``text`` with only characters that show, its middle left out where it is longer than ``most``."""
    if len(text) <= most:
        return _shown(text)
    half = (most - 1) // 2
    return f"{_shown(text[: most - 1 - half])}…{_shown(text[-half:])}"


def visible(text: str) -> str:
    """``text`` to be read in full: only characters that show, and no more than fit a screen."""
    return shorten(text, 300)


def plain(text: str) -> str:
    """``text`` in lines, with only characters that show."""
    return "\n".join(map(_shown, text.split("\n")))


@lru_cache(maxsize=4096)
def _shown(text: str) -> str:
    """Characters that do not show, or that turn the direction of others, exchanged for one that tells there was one."""
    return "".join([c if unicodedata.category(c)[0] != "C" else "\N{REPLACEMENT CHARACTER}" for c in text])


def width_of(text: str, pixels: float) -> int:
    """How wide a line is, in whole pairs of pixels, when a character takes ``pixels``; wide ones take twice that."""
    count = sum([2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text])
    return 2 * round(count * pixels / 2)
