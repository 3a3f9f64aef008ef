"""Folding: a layout with blocks folded and nodes hidden, by moving what is left together.

Two maps that never decrease, one for each axis, move everything: where nothing stands that is to be seen, they take the
room away. Order is kept, nothing comes to overlap, and a straight wire stays straight.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from lora_graph.inspect.layout import GAP_X, GAP_Y, HEADER, PAD, WIRE, Layout

Box = tuple[int, int, int, int]
"""Left, top, width, height."""


@dataclass(frozen=True, slots=True)
class Link:
    """A piece of a wire, from one place down to the next."""

    x0: int
    y0: int
    x1: int
    y1: int
    source: int
    """The node that the wire comes from."""
    ends: bool
    """Whether it ends here, at a box."""


@dataclass(frozen=True)
class View:
    """What is seen of a layout, in coordinates that begin at 0."""

    nodes: dict[int, Box]
    opened: dict[int, Box]
    """The blocks that show what is in them."""
    folded: dict[int, Box]
    links: list[Link]
    width: int
    height: int


class Squeeze:
    """The map that takes away the room outside of ``intervals``: t → how much of them is below t."""

    def __init__(self, intervals: Iterable[tuple[int, int]]) -> None:
        self.starts: list[int] = []
        self.stops: list[int] = []
        self.kept: list[int] = []
        for start, stop in sorted(intervals):
            if self.stops and start <= self.stops[-1]:
                self.stops[-1] = max(self.stops[-1], stop)
            else:
                self.kept.append(self.kept[-1] + self.stops[-1] - self.starts[-1] if self.kept else 0)
                self.starts.append(start)
                self.stops.append(stop)

    def __call__(self, at: int) -> int:
        index = bisect_right(self.starts, at) - 1
        return self.kept[index] + min(at, self.stops[index]) - self.starts[index] if index >= 0 else 0


def fold(
    layout: Layout,
    *,
    stage: int = -1,
    folded: Collection[int] = (),
    hidden: Collection[int] = (),
    aligned: bool = False,
) -> View:
    """One stage of a layout, with the blocks ``folded`` closed and the nodes ``hidden`` left out.

    Where views of several stages are to be ``aligned``, there is room for the nodes of all of them.
    """
    return _Folding(layout, stage, frozenset(folded), frozenset(hidden), aligned).view()


def folded_below(layout: Layout, depth: int | None) -> list[int]:
    """The blocks to fold so that modules inside ``depth`` others, or more, are closed; none where it is None."""
    if depth is None:
        return []
    return [number for number, block in enumerate(layout.blocks) if block.depth > depth]


@dataclass(frozen=True, slots=True)
class _Way:
    """The way of one edge: the boxes at its ends, and the points between them that show, downwards.

    Where ``joins``, what is before the first point is there already: another edge has come the same way.
    """

    source: int
    out: int
    points: list[int]
    into: int
    joins: bool


class _Folding:
    """Items are nodes and, after them, blocks."""

    def __init__(
        self, layout: Layout, stage: int, folded: frozenset[int], hidden: frozenset[int], aligned: bool
    ) -> None:
        self.layout, self.size = layout, len(layout.scene.nodes)
        drawn = layout.scene.stages[stage]
        self.closed = self._closed(folded - {0})
        nodes = sorted(drawn.nodes - hidden)
        self.shown, self.opened, self.folded = self._seen(nodes)
        self.rigid = (
            self._seen([n.id for n in layout.scene.nodes if n.id not in hidden]) if aligned else self._seen(nodes)
        )
        self.ways = list(self._ways([e for e in sorted(drawn.edges) if layout.scene.edges[e].source not in hidden]))
        self.x, self.y = self._maps()

    def _closed(self, folded: frozenset[int]) -> list[int]:
        """For each block the outermost one around it that is folded, itself included; -1 where there is none."""
        closed: list[int] = []
        for number, block in enumerate(self.layout.blocks):
            around = closed[block.parent] if block.parent >= 0 else -1
            closed.append(around if around >= 0 else number if number in folded else -1)
        return closed

    def _seen(self, nodes: Sequence[int]) -> tuple[list[int], list[int], list[int]]:
        """Those of ``nodes`` that are in no folded block, and the blocks around all of them, opened and folded."""
        blocks = self._used(nodes)
        return (
            [node for node in nodes if self.closed[self.layout.block_of[node]] < 0],
            [block for block in blocks if self.closed[block] < 0],
            [block for block in blocks if self.closed[block] == block],
        )

    def _used(self, nodes: Iterable[int]) -> list[int]:
        """The blocks around ``nodes``, from the outside in."""
        used = {0}
        for node in nodes:
            block = self.layout.block_of[node]
            while block not in used:
                used.add(block)
                block = self.layout.blocks[block].parent
        return sorted(used)

    def _item(self, node: int) -> int:
        """The box that shows ``node``: its own, or that of a folded block."""
        block = self.closed[self.layout.block_of[node]]
        return node if block < 0 else self.size + block

    def _ways(self, edges: Iterable[int]) -> Iterator[_Way]:
        layout, points = self.layout, self.layout.points
        done: set[int] = set()
        for edge in edges:
            source, target, _ = layout.scene.edges[edge]
            out, into = self._item(source), self._item(target)
            if out == into:
                continue
            seen: list[int] = []
            at = layout.ends[edge]
            while at >= 0 and at not in done:
                block = self.closed[points.block[at]]
                if block < 0:
                    seen.append(at)
                elif self.size + block == out:
                    break
                at = points.parent[at]
            joins = at >= 0 and at in done
            if joins:
                seen.append(at)
            done.update(seen)
            yield _Way(source, out, seen[::-1], into, joins)

    def _box(self, item: int) -> Box:
        """The box of a node, or of a folded block, before anything moves."""
        boxes, at = (self.layout.nodes, item) if item < self.size else (self.layout.folded, item - self.size)
        return boxes.x[at], boxes.y[at], boxes.w[at], boxes.h[at]

    def _maps(self) -> tuple[Squeeze, Squeeze]:
        areas, points = self.layout.areas, self.layout.points
        across, down = [], []
        shown, opened, folded = self.rigid
        for item in (*shown, *(self.size + block for block in folded)):
            x, y, w, h = self._box(item)
            across.append((x - GAP_X // 2, x + w + GAP_X // 2))
            down.append((y - GAP_Y // 2, y + h + GAP_Y // 2))
        for block in opened[1:]:
            left, right = areas.x[block], areas.x[block] + areas.w[block]
            top, bottom = areas.y[block], areas.y[block] + areas.h[block]
            across += [(left - GAP_X // 2, left + PAD), (right - PAD, right + GAP_X // 2)]
            down += [(top - GAP_Y // 2, top + HEADER), (bottom - GAP_Y // 2, bottom + GAP_Y // 2)]
        for point in {point for way in self.ways for point in way.points}:
            across.append((points.x[point] - WIRE, points.x[point] + WIRE))
        return Squeeze(across), Squeeze(down)

    def view(self) -> View:
        """Everything where it goes."""
        boxes = {item: self._moved(item) for item in (*self.shown, *(self.size + block for block in self.folded))}
        links = []
        for way in self.ways:
            places = [(self.x(self.layout.points.x[p]), self.y(self.layout.points.y[p])) for p in way.points]
            if not way.joins:
                left, top, width, height = boxes[way.out]
                places.insert(0, (left + width // 2, top + height))
            left, top, width, _ = boxes[way.into]
            places.append((left + width // 2, top))
            links += [Link(*a, *b, way.source, b is places[-1]) for a, b in pairwise(places)]
        opened = {block: self._opened(block) for block in self.opened}
        _, _, width, height = opened[0]
        return View(
            {node: boxes[node] for node in self.shown},
            opened,
            {block: boxes[self.size + block] for block in self.folded},
            links,
            width,
            height,
        )

    def _moved(self, item: int) -> Box:
        x, y, w, h = self._box(item)
        return self.x(x), self.y(y), w, h

    def _opened(self, block: int) -> Box:
        areas = self.layout.areas
        left, top = self.x(areas.x[block]), self.y(areas.y[block])
        right = self.x(areas.x[block] + areas.w[block])
        return left, top, right - left, self.y(areas.y[block] + areas.h[block]) - top
