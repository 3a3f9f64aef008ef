"""Rows: which row of its block an item is in, the lanes that wires take past other rows, and the order in each row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from lora_graph.inspect.layout_blocks import Nesting
from lora_graph.inspect.scene import Scene

SWEEPS = 4
LANES = 4
"""How many cells that are lanes there may be for each item of a block, besides ``FEW``; longer wires have none."""
FEW = 400


@dataclass
class Net:
    """What leads from one node to its users, as far as it is inside one block.

    ``source`` is the item that it starts from, -1 where it enters the block at the top; ``leaves`` if it goes on below.
    """

    source: int = -1
    targets: list[int] = field(default_factory=list)
    leaves: bool = False
    cells: list[int] = field(default_factory=list)
    """The cell of the source and those of the lanes, one a row."""
    exit: int = -1
    """The cell at the bottom."""


@dataclass
class Grid:
    """The rows of one block. A cell is an item, a lane, or a place where a wire enters (first row) or leaves (last).

    ``items`` tells for each cell the item, -1 for others.
    """

    nets: dict[int, Net]
    items: list[int] = field(default_factory=list)
    row_of: list[int] = field(default_factory=list)
    cell_of: dict[int, int] = field(default_factory=dict)
    rows: list[list[int]] = field(default_factory=list)
    links: list[Link] = field(default_factory=list)


class Link(NamedTuple):
    """A piece of a wire: the cells it goes from and to, and how far right of their middles it meets them."""

    upper: int
    lower: int
    node: int
    """Where the wire comes from."""
    out: float
    into: float


@dataclass
class Ports:
    """Where wires meet items: nodes in their middle; blocks, numbered after ``size`` nodes, at places of their own."""

    size: int
    widths: list[int]
    enters: list[dict[int, int]]
    """Of each block, how far from its left a wire from some node enters."""
    exits: list[dict[int, int]]

    def out(self, item: int, node: int) -> float:
        """How far right of the middle of ``item`` the wire from ``node`` leaves it; an item -1 is a lane."""
        return self.exits[item - self.size][node] - self.widths[item] / 2 if item >= self.size else 0.0

    def into(self, item: int, node: int) -> float:
        """The same where it comes in."""
        return self.enters[item - self.size][node] - self.widths[item] / 2 if item >= self.size else 0.0


def nets_of(scene: Scene, nesting: Nesting) -> list[dict[int, Net]]:
    """For each block, the nets in it by the node that they come from."""
    blocks, block_of, size = nesting.blocks, nesting.block_of, len(scene.nodes)
    nets: list[dict[int, Net]] = [{} for _ in blocks]
    depth = [block.depth for block in blocks]
    parent = [block.parent for block in blocks]
    for source, target, _ in scene.edges:
        upper, lower, out, into = block_of[source], block_of[target], source, target
        while upper != lower:
            if depth[upper] >= depth[lower]:
                net = nets[upper].setdefault(source, Net(out))
                net.leaves = True
                out, upper = size + upper, parent[upper]
            else:
                _add(nets[lower].setdefault(source, Net()), into)
                into, lower = size + lower, parent[lower]
        _add(nets[upper].setdefault(source, Net(out)), into)
    return nets


def _add(net: Net, target: int) -> None:
    if target not in net.targets[-1:]:
        net.targets.append(target)


def grid_of(items: Sequence[int], nets: dict[int, Net], scene: Scene, ports: Ports) -> Grid:
    """The rows of a block, with every cell in its order; ``items`` are in topological order, the blocks done."""
    for net in nets.values():
        net.targets = list(dict.fromkeys(net.targets))
    row, last = _rows(items, nets, scene)
    grid = Grid(nets)
    grid.rows = [[] for _ in range(last + 3)]
    for item in items:
        grid.cell_of[item] = _cell(grid, item, row[item] + 1)
    with_lanes = _with_lanes(nets, row, last, LANES * len(items) + FEW)
    for node, net in nets.items():
        _string(grid, node, net, last, node in with_lanes, ports)
    _order(grid, ports)
    return grid


def _rows(items: Sequence[int], nets: dict[int, Net], scene: Scene) -> tuple[dict[int, int], int]:
    """The row of each item: below all it needs. What needs no input of the block stands just above its first user."""
    targets: dict[int, list[int]] = {}
    reached: set[int] = set()
    for net in nets.values():
        if net.source < 0:
            reached.update(net.targets)
        else:
            targets.setdefault(net.source, []).extend(net.targets)
    row = dict.fromkeys(items, 0)
    for item in items:
        if item < len(scene.nodes) and scene.nodes[item].kind == "input":
            reached.add(item)
        below, is_reached = row[item] + 1, item in reached
        for target in targets.get(item, ()):
            if row[target] < below:
                row[target] = below
            if is_reached:
                reached.add(target)
    for item in reversed(items):
        if item not in reached and targets.get(item):
            row[item] = min(row[target] for target in targets[item]) - 1
    return row, max(row.values(), default=0)


def _with_lanes(nets: dict[int, Net], row: dict[int, int], last: int, most: int) -> set[int]:
    """The nodes whose wires get lanes: the shortest first, until there are ``most`` cells."""
    lengths = []
    for node, net in nets.items():
        end = last + 1 if net.leaves else max(row[target] for target in net.targets)
        length = end - (row[net.source] if net.source >= 0 else -1) - 1
        lengths.append((length, node))
    chosen = set()
    for length, node in sorted(lengths):
        most -= length
        if most < 0:
            break
        chosen.add(node)
    return chosen


def _cell(grid: Grid, item: int, row: int) -> int:
    cell = len(grid.items)
    grid.items.append(item)
    grid.row_of.append(row)
    grid.rows[row].append(cell)
    return cell


def _string(grid: Grid, node: int, net: Net, last: int, has_lane: bool, ports: Ports) -> None:
    """The cells of a net and the links between them; the first row of items is row 1 of the grid."""
    cell = grid.cell_of[net.source] if net.source >= 0 else _cell(grid, -1, 0)
    net.cells = [cell]
    start = grid.row_of[cell]
    ends = sorted((grid.row_of[grid.cell_of[target]], target) for target in net.targets)
    end = last + 2 if net.leaves else ends[-1][0]
    if has_lane:
        for at in range(start + 1, end):
            lane = _cell(grid, -1, at)
            grid.links.append(_link(grid, net.cells[-1], lane, node, ports))
            net.cells.append(lane)
    for at, target in ends:
        upper = net.cells[at - start - 1] if has_lane else cell
        grid.links.append(_link(grid, upper, grid.cell_of[target], node, ports))
    if net.leaves:
        net.exit = _cell(grid, -1, last + 2)
        grid.links.append(_link(grid, net.cells[-1], net.exit, node, ports))


def _link(grid: Grid, upper: int, lower: int, node: int, ports: Ports) -> Link:
    return Link(upper, lower, node, ports.out(grid.items[upper], node), ports.into(grid.items[lower], node))


def _order(grid: Grid, ports: Ports) -> None:
    """Barycentre sweeps, down and up: each cell goes to the mean place of its neighbours in the row before.

    A block is met at its ports, whose order counts as well.
    """
    uppers: list[list[tuple[int, float]]] = [[] for _ in grid.items]
    lowers: list[list[tuple[int, float]]] = [[] for _ in grid.items]
    for upper, lower, _, out, into in grid.links:
        uppers[lower].append((upper, _share(grid, upper, out, ports)))
        lowers[upper].append((lower, _share(grid, lower, into, ports)))
    place = [0.0] * len(grid.items)
    for row in grid.rows:
        _number(row, place)
    for sweep in range(SWEEPS):
        is_down = sweep % 2 == 0
        near, far = (uppers, lowers) if is_down else (lowers, uppers)
        for row in grid.rows if is_down else reversed(grid.rows):
            if len(row) > 1:
                wanted = {}
                for cell in row:
                    others = near[cell] or far[cell]
                    total = sum([place[other] + share for other, share in others])
                    wanted[cell] = total / len(others) if others else place[cell]
                row.sort(key=wanted.__getitem__)
                _number(row, place)


def _share(grid: Grid, cell: int, offset: float, ports: Ports) -> float:
    """A distance from the middle of a cell as one between places in its row."""
    return offset / (ports.widths[grid.items[cell]] * (len(grid.rows[grid.row_of[cell]]) + 1)) if offset else 0.0


def _number(row: list[int], place: list[float]) -> None:
    """Places from 0 to 1, so that those in rows of different lengths compare."""
    step = 1 / (len(row) + 1)
    for index, cell in enumerate(row, 1):
        place[cell] = index * step
