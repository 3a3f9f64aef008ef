"""Drawings: one stage of a scene as a static SVG image, dark on white, or light on dark where that is preferred.

The same scene gives the same bytes. Nothing in it is active, and every text of the model is escaped.
"""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from math import sqrt

from lora_graph.inspect.folding import Box, Link, View, fold, folded_below
from lora_graph.inspect.layout import Layout, lay_out
from lora_graph.inspect.scene import Node, Scene
from lora_graph.inspect.scene_text import SUBTITLE, shorten, visible

MARGIN = 12
FOOT = 26
"""Pixels around the drawing, and for the line that explains its colours."""
MOST_ATTRIBUTES = 12

HEAT = ("#f3f8fd", "#d6e6f4", "#abcfe6", "#6aaed6", "#3787c0", "#105ba4", "#08306b")
"""From nothing to the most, by the square root: shades of one colour, for eyes of any kind."""
PALE = 4
"""The first shade that light text is read on."""

STYLE = """
.lg text{font-family:system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif;fill:#1c2430}
.lg .page{fill:#fff}
.lg .block{fill:#f5f7fa;stroke:#cfd6e0}
.lg .even{fill:#fff}
.lg .folded{fill:#e6ecf5;stroke:#7f8da3}
.lg .op{fill:#fff;stroke:#5d6a7e}
.lg .input,.lg .output{fill:#2f3b4d;stroke:#2f3b4d}
.lg .parameter{fill:#e9eef6;stroke:#93a2b8}
.lg .constant{fill:#f2f2f2;stroke:#b9bec6}
.lg .adapter{fill:#ffe8d1;stroke:#c96f16}
.lg .added{fill:#dcf3e2;stroke:#23803f}
.lg .removed{fill:#fbe0e0;stroke:#b3342f;stroke-dasharray:5 3}
.lg .changed,.lg .fused,.lg .weights{fill:#fff3cd;stroke:#a67c00}
.lg .wire{fill:none;stroke:#8592a6;stroke-width:1.3}
.lg .tip{fill:#8592a6}
.lg .wire.adapter{fill:none;stroke:#d98a3d}
.lg .tip.adapter{fill:#d98a3d;stroke:none}
.lg .title{font-size:12px;font-weight:600;text-anchor:middle}
.lg .small{font-size:10.5px;fill:#566274;text-anchor:middle}
.lg .label{font-size:11px;font-weight:600;fill:#566274}
.lg .light,.lg .white{fill:#fff}
.lg .on-shade{fill:#1c2430}
@media (prefers-color-scheme:dark){
.lg text{fill:#e6ebf2}
.lg .page{fill:#12161d}
.lg .block{fill:#1a2029;stroke:#323c4a}
.lg .even{fill:#141920}
.lg .folded{fill:#26303d;stroke:#66758b}
.lg .op{fill:#232b36;stroke:#76859b}
.lg .input,.lg .output{fill:#c9d3e1;stroke:#c9d3e1}
.lg .parameter{fill:#2a3544;stroke:#60708a}
.lg .constant{fill:#272b31;stroke:#565d68}
.lg .adapter{fill:#4a3016;stroke:#e39a4b}
.lg .added{fill:#173a23;stroke:#56c07a}
.lg .removed{fill:#461d1d;stroke:#e07a75}
.lg .changed,.lg .fused,.lg .weights{fill:#40350d;stroke:#d8b13c}
.lg .small,.lg .label{fill:#a3b0c2}
.lg .light{fill:#12161d}
.lg .on-shade{fill:#1c2430}
.lg .white{fill:#fff}
}
""".replace("\n", "")


def svg(
    scene: Scene | Layout, *, stage: int | str = -1, depth: int | None = None, constants: bool = False, heat: str = ""
) -> str:
    """One stage, by number or name, of ``scene`` as the text of an SVG image; the last one by default.

    Of a layout, everything keeps its order; of a scene, the stage is laid out by itself. Modules inside ``depth``
    others, or more, are folded; nodes are shaded by the metric ``heat``. ValueError for a stage or metric there is not.
    """
    if isinstance(scene, Layout):
        layout, number = scene, _stage(scene.scene, stage)
    else:
        layout, number = lay_out(scene.only(_stage(scene, stage))), 0
    hidden = [] if constants else _constants(layout)
    view = fold(layout, stage=number, folded=folded_below(layout, depth), hidden=hidden)
    if heat and heat not in layout.scene.metrics:
        raise ValueError(f"heat must be one of {', '.join(layout.scene.metrics) or 'none'}, got {heat!r}")
    return _Drawing(layout, view, heat).text()


def side_by_side(layout: Layout, *, depth: int | None = None, constants: bool = False) -> str:
    """Every stage of a scene beside the one before, each with its name; what is in both stands at the same height."""
    hidden = [] if constants else _constants(layout)
    stages, parts, left, height = layout.scene.stages, [], 0, 0
    for number, stage in enumerate(stages):
        view = fold(layout, stage=number, folded=folded_below(layout, depth), hidden=hidden, aligned=True)
        drawing = _Drawing(layout, view)
        name = escape(shorten(stage.name, max(drawing.width // 8, 8)))
        parts.append(f'<text class="label" x="{left + MARGIN}" y="{FOOT - 8}">{name}</text>')
        parts.append(drawing.group(left, FOOT))
        left, height = left + drawing.width, max(height, drawing.height + FOOT)
    name = escape(visible(layout.scene.name))
    return "\n".join([*_head(name, left, height), *parts, "</svg>"]) + "\n"


def boxes_at(layout: Layout, depth: int) -> int:
    """How many boxes are drawn when modules inside ``depth`` others are folded, constants left out."""
    view = fold(layout, folded=folded_below(layout, depth), hidden=_constants(layout))
    return len(view.nodes) + len(view.folded)


def _constants(layout: Layout) -> list[int]:
    return [node.id for node in layout.scene.nodes if node.kind == "constant"]


def _stage(scene: Scene, stage: int | str) -> int:
    names = [each.name for each in scene.stages]
    if isinstance(stage, int) and -len(names) <= stage < len(names):
        return stage % len(names)
    if stage in names:
        return names.index(str(stage))
    raise ValueError(f"stage must be one of {', '.join(names)}, or a number below {len(names)}, got {stage!r}")


def _head(name: str, width: int, height: int) -> list[str]:
    return [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="lg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" role="img" aria-label="{name}">',
        f"<title>{name}</title>",
        f"<style>{STYLE}</style>",
        f'<rect class="page" width="{width}" height="{height}"/>',
    ]


class _Drawing:
    def __init__(self, layout: Layout, view: View, heat: str = "") -> None:
        self.layout, self.view = layout, view
        numbers = layout.scene.metrics[heat] if heat else {}
        self.heat = {node: numbers.get(node, 0.0) for node in view.nodes if layout.scene.nodes[node].kind == "op"}
        self.most = max(self.heat.values(), default=0.0)
        self.nodes = layout.scene.nodes
        self.keys = self._keys()
        self.scale = f"the darker, the more {visible(heat)}" if heat else ""
        words = sum(len(key) * 7 + 34 for key in self.keys) + len(self.scale) * 7
        self.width = max(view.width, words) + 2 * MARGIN
        self.height = view.height + 2 * MARGIN + (FOOT if words else 0)

    def text(self) -> str:
        """The whole image."""
        name = escape(visible(self.layout.scene.name))
        return "\n".join([*_head(name, self.width, self.height), self.group(0, 0), "</svg>"]) + "\n"

    def group(self, left: int, top: int) -> str:
        """What is drawn, as a group at a place."""
        lines = [
            f'<g transform="translate({left + MARGIN} {top + MARGIN})">',
            *self._areas(),
            *self._wires(),
            *(line for node, box in self.view.nodes.items() for line in self._node(self.nodes[node], box)),
            *(line for block, box in self.view.folded.items() for line in self._folded(block, box)),
            *self._foot(),
            "</g>",
        ]
        return "\n".join(lines)

    def _areas(self) -> Iterator[str]:
        for block, box in self.view.opened.items():
            if block:
                about = self.layout.blocks[block]
                shade = "block even" if about.depth % 2 == 0 else "block"
                most = max(int((box[2] - 16) / 6.6), 4)
                yield f'<rect class="{shade}" {_place(box)} rx="8"><title>{escape(visible(about.path))}</title></rect>'
                label = escape(shorten(about.label, most))
                yield f'<text class="label" x="{box[0] + 9}" y="{box[1] + 16}">{label}</text>'

    def _wires(self) -> Iterator[str]:
        """All wires of one colour as one path, and their tips as another."""
        for is_adapter, name in ((False, ""), (True, " adapter")):
            links = [link for link in self.view.links if self.nodes[link.source].is_adapter == is_adapter]
            if links:
                tips = "".join(f"M{link.x1} {link.y1}l-3.5-6h7z" for link in links if link.ends)
                yield f'<path class="wire{name}" d="{"".join(map(_curve, links))}"/>'
                yield f'<path class="tip{name}" d="{tips}"/>'

    def _node(self, node: Node, box: Box) -> Iterator[str]:
        caption = self.layout.captions[node.id]
        mark = self.layout.scene.marks.get(node.id, "")
        classes = " ".join(filter(None, [node.kind, "adapter" if node.is_adapter else "", mark]))
        x, y, w, h = box
        shade = self._shade(node)
        is_dark = node.kind in ("input", "output") and not mark and not node.is_adapter
        light = " light" if is_dark else "" if shade < 0 else " on-shade" if shade < PALE else " white"
        fill = "" if shade < 0 else f' style="fill:{HEAT[shade]}"'
        radius = {"op": 6, "constant": 10}.get(node.kind, 4 if node.kind == "parameter" else 20)
        yield f'<g><title>{escape(_about(node))}</title><rect class="{classes}" {_place(box)} rx="{radius}"{fill}/>'
        middle = x + w / 2
        if caption.subtitle:
            yield f'<text class="title{light}" x="{middle:g}" y="{y + 17}">{escape(caption.title)}</text>'
            yield f'<text class="small{light}" x="{middle:g}" y="{y + 31}">{escape(caption.subtitle)}</text></g>'
        else:
            yield f'<text class="small{light}" x="{middle:g}" y="{y + h / 2 + 4:g}">{escape(caption.title)}</text></g>'

    def _shade(self, node: Node) -> int:
        """How dark a node is by its number, -1 where nothing is shaded."""
        if not self.most or node.kind != "op":
            return -1
        return round((len(HEAT) - 1) * sqrt(self.heat[node.id] / self.most))

    def _folded(self, block: int, box: Box) -> Iterator[str]:
        about = self.layout.blocks[block]
        middle = box[0] + box[2] / 2
        count = "1 node" if about.count == 1 else f"{about.count:,} nodes"
        kind = "folded adapter" if about.adapters == about.count else "folded"
        yield f'<g><title>{escape(visible(about.path))}</title><rect class="{kind}" {_place(box)} rx="8"/>'
        yield f'<text class="title" x="{middle:g}" y="{box[1] + 17}">{escape(shorten(about.label))}</text>'
        yield f'<text class="small" x="{middle:g}" y="{box[1] + 31}">{count}</text></g>'

    def _keys(self) -> list[str]:
        """The colours that need a word."""
        nodes = [self.nodes[node] for node in self.view.nodes]
        marks = sorted({self.layout.scene.marks[node.id] for node in nodes if node.id in self.layout.scene.marks})
        blocks = [self.layout.blocks[block] for block in self.view.folded]
        has_adapter = any(node.is_adapter for node in nodes) or any(b.adapters == b.count for b in blocks)
        return [*(["adapter"] if has_adapter else []), *marks]

    def _foot(self) -> Iterator[str]:
        x, y = 2, self.view.height + 8
        for key in self.keys:
            yield f'<rect class="{key}" x="{x}" y="{y}" width="14" height="14" rx="3"/>'
            yield f'<text class="label" x="{x + 20}" y="{y + 11}">{key}</text>'
            x += round(len(key) * SUBTITLE) + 44
        if self.scale:
            yield f'<text class="label" x="{x}" y="{y + 11}">{escape(self.scale)}</text>'


def _place(box: Box) -> str:
    x, y, w, h = box
    return f'x="{x}" y="{y}" width="{w}" height="{h}"'


def _curve(link: Link) -> str:
    """A line where it is upright, else a curve that is upright at both ends."""
    x0, y0, x1, y1, tip = link.x0, link.y0, link.x1, link.y1, 5 * link.ends
    if x0 == x1:
        return f"M{x0} {y0}V{y1 - tip}"
    middle = (y0 + y1) // 2
    return f"M{x0} {y0}C{x0} {middle} {x1} {middle} {x1} {y1 - tip}"


def _about(node: Node) -> str:
    """What to read where the pointer rests."""
    lines = [f"{node.op} {node.label}".strip() if node.kind == "op" else f"{node.kind} {node.label}", node.type]
    lines += [f"in {node.module}"] * bool(node.module)
    lines += [f"{name} = {text}" for name, text in list(node.attributes.items())[:MOST_ATTRIBUTES]]
    lines += [f"{name}: {text}" for name, text in node.details.items()]
    return "\n".join(map(visible, lines))
