"""Layout: where every node, block and wire of a scene stands, all stages of it in one plane.

Layers by longest path and barycentre order, after Sugiyama, Tagawa and Toda (1981), in blocks that are modules: a block
is laid out by itself, bottom-up, and is then one item of the block around it. Linear in the size of the scene but for
the sorting of rows.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import ceil, floor

from lora_graph.garbage import no_collections
from lora_graph.inspect.layout_blocks import LEAVES, Block, nest
from lora_graph.inspect.layout_columns import Neighbour, place_rows
from lora_graph.inspect.layout_rows import Grid, Ports, grid_of, nets_of
from lora_graph.inspect.layout_wires import Placed, Points, Wiring
from lora_graph.inspect.scene import Scene
from lora_graph.inspect.scene_text import Caption, captions, width_of

GAP_X, GAP_Y, WIRE, PAD, HEADER = 20, 30, 6, 14, 24
"""Between boxes in a row, between rows, to each side of a wire, and inside a block at its sides and its top."""
STRAIGHT = 8.0
"""How much more a lane wants to be straight, and a box to be in the middle below another, than a lane below a box.

The middles count and not where a wire meets a block: else each layer of a model would stand to one side of the last.
"""
FAINT = 1e-6
"""How much a box and its parameters want to be near each other: what is computed goes before."""


@dataclass
class Boxes:
    """Left, top, width and height of some boxes."""

    x: list[int] = field(default_factory=list)
    y: list[int] = field(default_factory=list)
    w: list[int] = field(default_factory=list)
    h: list[int] = field(default_factory=list)


@dataclass
class Layout:
    """``ends`` tells for each edge the last point on its way, -1 where it goes straight from box to box."""

    scene: Scene
    captions: list[Caption]
    blocks: list[Block]
    block_of: list[int]
    nodes: Boxes
    areas: Boxes
    """The blocks, opened."""
    folded: Boxes
    """The blocks, folded: at the top of the area, between the wires that come in and those that go out."""
    points: Points
    ends: list[int]


def lay_out(scene: Scene) -> Layout:
    """The layout of ``scene``; the same for equal scenes, whatever the order of sets."""
    with no_collections():
        return _Layout(scene).run()


class _Layout:
    def __init__(self, scene: Scene) -> None:
        self.scene, self.size = scene, len(scene.nodes)
        nesting = nest(scene)
        self.blocks, self.block_of = nesting.blocks, nesting.block_of
        self.nets = nets_of(scene, nesting)
        self.loose = {node.id for node in scene.nodes if node.kind in LEAVES}
        self.captions = captions(scene)
        self.least = [_folded_size(block) for block in self.blocks]
        self.w = [c.width for c in self.captions] + [0] * len(self.blocks)
        self.h = [c.height for c in self.captions] + [0] * len(self.blocks)
        self.x = [0] * (self.size + len(self.blocks))
        self.y = list(self.x)
        self.grids: list[Grid] = []
        self.centres: list[list[int]] = []
        self.tops: list[list[int]] = []
        self.heights: list[list[int]] = []
        self.ports = Ports(self.size, self.w, [{} for _ in self.blocks], [{} for _ in self.blocks])

    def run(self) -> Layout:
        count = len(self.blocks)
        self.grids = [Grid({})] * count
        self.centres, self.tops, self.heights = [[]] * count, [[]] * count, [[]] * count
        for block in reversed(range(count)):
            self._size_block(block)
        for block in range(count):
            self._put_items(block)
        points, ends = self._wires()
        areas = Boxes(self.x[self.size :], self.y[self.size :], self.w[self.size :], self.h[self.size :])
        nodes = Boxes(self.x[: self.size], self.y[: self.size], self.w[: self.size], self.h[: self.size])
        return Layout(self.scene, self.captions, self.blocks, self.block_of, nodes, areas, self._folded(), points, ends)

    def _size_block(self, block: int) -> None:
        """Rows and columns of one block, its items being sized; then its own size."""
        grid = self.grids[block] = grid_of(self.blocks[block].items, self.nets[block], self.scene, self.ports)
        half = [self.w[item] / 2 if item >= 0 else 0.0 for item in grid.items]
        gap = [float(GAP_X) if item >= 0 else 2.0 * WIRE for item in grid.items]
        uppers: list[list[Neighbour]] = [[] for _ in grid.items]
        lowers: list[list[Neighbour]] = [[] for _ in grid.items]
        for upper, lower, node, out, into in grid.links:
            is_alike = (grid.items[upper] < 0) == (grid.items[lower] < 0)
            weight = FAINT if node in self.loose else STRAIGHT if is_alike else 1.0
            shift = 0.0 if is_alike else out - into
            uppers[lower].append((upper, shift, weight))
            lowers[upper].append((lower, -shift, weight))
        x = place_rows(grid.rows, half, gap, uppers, lowers)
        left = min((x[cell] - half[cell] for cell in range(len(x))), default=0.0) - PAD
        right = max((x[cell] + half[cell] for cell in range(len(x))), default=0.0) + PAD
        item = self.size + block
        least_w, least_h = self.least[block]
        self.w[item] = max(2 * ceil((right - left) / 2), least_w)
        left -= (self.w[item] - (right - left)) / 2
        self.centres[block] = [floor(at - left + 0.501) for at in x]  # what is nearly equal becomes equal
        heights = [0] * (len(grid.rows) - 2)
        for inner, cell in grid.cell_of.items():
            row = grid.row_of[cell] - 1
            heights[row] = max(heights[row], self.h[inner])
        top, tops = HEADER + GAP_Y // 2, []
        for height in heights:
            tops.append(top)
            top += height + GAP_Y
        self.tops[block], self.heights[block] = tops, heights
        self.h[item] = max(top - GAP_Y // 2, least_h)
        for node, net in self.nets[block].items():
            if net.source < 0:
                self.ports.enters[block][node] = self.centres[block][net.cells[0]]
            if net.leaves:
                self.ports.exits[block][node] = self.centres[block][net.exit]

    def _put_items(self, block: int) -> None:
        """The places of the items of a block whose own is known."""
        grid, left, top = self.grids[block], self.x[self.size + block], self.y[self.size + block]
        for item, cell in grid.cell_of.items():
            row = grid.row_of[cell] - 1
            self.x[item] = left + self.centres[block][cell] - self.w[item] // 2
            self.y[item] = top + self.tops[block][row]
            if item < self.size and self.scene.nodes[item].kind in LEAVES:
                self.y[item] += self.heights[block][row] - self.h[item]

    def _folded(self) -> Boxes:
        """Each block when it is folded: in the middle of where it is when it is open."""
        found = Boxes()
        for block, (width, height) in enumerate(self.least):
            item = self.size + block
            found.x.append(self.x[item] + (self.w[item] - width) // 2)
            found.y.append(self.y[item])
            found.w.append(width)
            found.h.append(height)
        return found

    def _wires(self) -> tuple[Points, list[int]]:
        bottoms = [y + h for y, h in zip(self.y, self.h, strict=True)]
        wiring = Wiring(self.size, bottoms, self.ports)
        for block in range(len(self.blocks)):
            left, top = self.x[self.size + block], self.y[self.size + block]
            enters, exits = (
                {node: left + x for node, x in ports[block].items()} for ports in (self.ports.enters, self.ports.exits)
            )
            wiring.open(block, top, enters, exits)
        for block, grid in enumerate(self.grids):
            left, top = self.x[self.size + block], self.y[self.size + block]
            tops = [top + y for y in self.tops[block]]
            ends = [y + h for y, h in zip(tops, self.heights[block], strict=True)]
            wiring.string(Placed(block, grid, [left + x for x in self.centres[block]], tops, ends))
        return wiring.points, [wiring.ends[source, target] for source, target, _ in self.scene.edges]


def _folded_size(block: Block) -> tuple[int, int]:
    return max(width_of(block.label, 7.2), 60) + 44, 40
