"""A scene that is laid out, as plain data for JSON: columns of numbers, and every text once."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from lora_graph.inspect.layout import GAP_X, GAP_Y, HEADER, PAD, WIRE, Layout, lay_out
from lora_graph.inspect.scene import KINDS, Scene, Stage

VERSION = 1


def to_data(scene: Scene | Layout) -> dict[str, Any]:
    """Columns of nodes, edges, bend points, blocks and stages; texts are places in ``strings``.

    Coordinates are whole pixels, in one plane for all stages, with every block open and every constant shown. The way
    of an edge is its source, the points that lead to ``end`` by way of ``parent``, its target.
    """
    layout = scene if isinstance(scene, Layout) else lay_out(scene)
    texts = _Texts()
    drawn = layout.scene
    points = layout.points
    return {
        "version": VERSION,
        "name": drawn.name,
        "kinds": list(KINDS),
        "nodes": _nodes(layout, texts),
        "attributes": {node.id: texts.pairs(node.attributes) for node in drawn.nodes if node.attributes},
        "details": {node.id: texts.pairs(node.details) for node in drawn.nodes if node.details},
        "sources": {node.id: list(node.sources) for node in drawn.nodes if node.sources},
        "adapter": [node.id for node in drawn.nodes if node.is_adapter],
        "marks": dict(sorted(drawn.marks.items())),
        "metrics": {name: _numbers(of) for name, of in drawn.metrics.items()},
        "blocks": _blocks(layout, texts),
        "edges": {
            "from": [edge.source for edge in drawn.edges],
            "to": [edge.target for edge in drawn.edges],
            "operand": [edge.operand for edge in drawn.edges],
            "end": layout.ends,
        },
        "points": {"x": points.x, "y": points.y, "parent": points.parent, "block": points.block},
        "stages": [_stage(stage) for stage in drawn.stages],
        "spacing": {"x": GAP_X // 2, "y": GAP_Y // 2, "wire": WIRE, "header": HEADER, "pad": PAD},
        "strings": list(texts.places),
    }


class _Texts:
    def __init__(self) -> None:
        self.places: dict[str, int] = {}

    def __call__(self, text: str) -> int:
        return self.places.setdefault(text, len(self.places))

    def pairs(self, texts: Mapping[str, str]) -> list[tuple[int, int]]:
        return [(self(name), self(text)) for name, text in texts.items()]


def _nodes(layout: Layout, texts: _Texts) -> dict[str, list[int]]:
    nodes, boxes = layout.scene.nodes, layout.nodes
    return {
        "op": [texts(node.op) for node in nodes],
        "label": [texts(node.label) for node in nodes],
        "title": [texts(caption.title) for caption in layout.captions],
        "subtitle": [texts(caption.subtitle) for caption in layout.captions],
        "type": [texts(node.type) for node in nodes],
        "module": [texts(node.module) for node in nodes],
        "kind": [KINDS.index(node.kind) for node in nodes],
        "block": layout.block_of,
        "x": boxes.x,
        "y": boxes.y,
        "w": boxes.w,
        "h": boxes.h,
    }


def _blocks(layout: Layout, texts: _Texts) -> dict[str, list[int]]:
    blocks, areas = layout.blocks, layout.areas
    return {
        "path": [texts(block.path) for block in blocks],
        "label": [texts(block.label) for block in blocks],
        "parent": [block.parent for block in blocks],
        "depth": [block.depth for block in blocks],
        "count": [block.count for block in blocks],
        "adapters": [block.adapters for block in blocks],
        "x": areas.x,
        "y": areas.y,
        "w": areas.w,
        "h": areas.h,
        "cx": layout.folded.x,
        "cw": layout.folded.w,
        "ch": layout.folded.h,
    }


def _stage(stage: Stage) -> dict[str, Any]:
    return {"name": stage.name, "nodes": ranges(stage.nodes), "edges": ranges(stage.edges)}


def ranges(numbers: Collection[int]) -> list[tuple[int, int]]:
    """``numbers`` as half-open intervals, in order."""
    found: list[tuple[int, int]] = []
    for number in sorted(numbers):
        if found and found[-1][1] == number:
            found[-1] = found[-1][0], number + 1
        else:
            found.append((number, number + 1))
    return found


def _numbers(of: Mapping[int, float]) -> dict[str, list[float]]:
    ordered: Iterable[tuple[int, float]] = sorted(of.items())
    pairs = list(ordered)
    return {"ids": [node for node, _ in pairs], "values": [number for _, number in pairs]}
