"""Wires: the points at which they bend, shared by all edges that come from one node."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from lora_graph.inspect.layout_rows import Grid, Net, Ports


@dataclass
class Points:
    """Places, the point before each (-1 where a wire comes straight from its box), and the block that it is in."""

    x: list[int] = field(default_factory=list)
    y: list[int] = field(default_factory=list)
    parent: list[int] = field(default_factory=list)
    block: list[int] = field(default_factory=list)

    def add(self, x: int, y: int, parent: int, block: int) -> int:
        self.x.append(x)
        self.y.append(y)
        self.parent.append(parent)
        self.block.append(block)
        return len(self.x) - 1


@dataclass
class Placed:
    """A block with everything in it, in coordinates of the whole plane."""

    number: int
    grid: Grid
    centres: Sequence[int]
    """The middle of each cell."""
    tops: Sequence[int]
    bottoms: Sequence[int]
    """Of each row."""


class Wiring:
    """``size`` nodes, numbered before blocks; ``bottoms`` tells where each node and block ends."""

    def __init__(self, size: int, bottoms: Sequence[int], ports: Ports) -> None:
        self.size, self.bottoms = size, bottoms
        self.points = Points()
        self.enters = [dict.fromkeys(places, -1) for places in ports.enters]
        self.exits = [dict.fromkeys(places, -1) for places in ports.exits]
        self.ends: dict[tuple[int, int], int] = {}
        """The last point on the way from a node to another."""

    def open(self, block: int, top: int, enters: dict[int, int], exits: dict[int, int]) -> None:
        """The points at the border of a block, given where on the x axis they are; what is before them comes later."""
        bottom = self.bottoms[self.size + block]
        for node, x in enters.items():
            self.enters[block][node] = self.points.add(x, top, -1, block)
        for node, x in exits.items():
            self.exits[block][node] = self.points.add(x, bottom, -1, block)

    def string(self, placed: Placed) -> None:
        """The points of all nets of a block."""
        for node, net in placed.grid.nets.items():
            self._string(placed, node, net)

    def _string(self, placed: Placed, node: int, net: Net) -> None:
        grid, points = placed.grid, self.points
        source, cells = net.source, net.cells
        start = grid.row_of[cells[0]]
        x, at, low = placed.centres[cells[0]], -1, -1
        if source < 0:
            at = self.enters[placed.number][node]
            low = start
        elif source >= self.size:
            at = self.exits[source - self.size][node]
            x = points.x[at]
        if source >= 0 and self.bottoms[source] == placed.bottoms[start - 1]:
            low = start
        following: dict[int, list[tuple[int, int]]] = {}
        for target in net.targets:
            row = grid.row_of[grid.cell_of[target]] if len(cells) > 1 else start + 1
            following.setdefault(row, []).append((target, self._entry(placed, node, target)))
        for index, cell in enumerate(cells):
            row = start + index
            if index and placed.centres[cell] != x:
                x = placed.centres[cell]
                at = points.add(x, placed.tops[row - 1], at, placed.number)
                low = -1
            reached = following.get(row + 1, [])
            places = [place for _, place in reached]
            is_last = index == len(cells) - 1
            if not is_last:
                places.append(placed.centres[cells[index + 1]])
            elif net.leaves:
                places.append(placed.centres[net.exit])
            if low != row and any(place != x for place in places):
                at = points.add(x, placed.bottoms[row - 1], at, placed.number)
            for target, _ in reached:
                self._arrive(node, target, at)
        if net.leaves:
            points.parent[self.exits[placed.number][node]] = at

    def _entry(self, placed: Placed, node: int, target: int) -> int:
        if target >= self.size:
            return self.points.x[self.enters[target - self.size][node]]
        return placed.centres[placed.grid.cell_of[target]]

    def _arrive(self, node: int, target: int, at: int) -> None:
        if target >= self.size:
            self.points.parent[self.enters[target - self.size][node]] = at
        else:
            self.ends[node, target] = at
