"""Blocks: modules as boxes in boxes, cut into parts where one box would need an edge that goes up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush

from lora_graph.inspect.scene import Scene

LEAVES = ("parameter", "constant")


@dataclass
class Block:
    """A box around nodes and other boxes: a module, or a part of one. Number 0 is around everything.

    ``items`` are in topological order; block number b is the item n + b, where n is the number of nodes.
    """

    path: str
    label: str
    parent: int
    depth: int
    items: list[int] = field(default_factory=list)
    count: int = 0
    """Nodes inside, at any depth; leaves are not counted."""
    adapters: int = 0
    """Those of them that belong to adapters."""


@dataclass
class Nesting:
    """All blocks, parents before children, and the block of each node."""

    blocks: list[Block]
    block_of: list[int]


def nest(scene: Scene) -> Nesting:
    """Blocks such that the items of each form no cycle.

    Where two modules each need something of the other, what can be computed of the one first becomes a part of its own.
    A parameter or a constant goes to the innermost block that holds all its users.
    """
    return _Nesting(scene).run()


class _Nesting:
    def __init__(self, scene: Scene) -> None:
        self.size = len(scene.nodes)
        self.is_leaf = [node.kind in LEAVES for node in scene.nodes]
        self.is_adapter = [node.is_adapter for node in scene.nodes]
        self.paths = [tuple(node.module.split(".")) if node.module else () for node in scene.nodes]
        self.users: list[list[int]] = [[] for _ in scene.nodes]
        for source, target, _ in scene.edges:
            self.users[source].append(target)
        self.blocks = [Block("", scene.name, -1, 0)]
        self.block_of = [0] * self.size

    def run(self) -> Nesting:
        order = [node for node in topological(self.users) if not self.is_leaf[node]]
        work = [(0, order, 0)]
        while work:
            block, nodes, depth = work.pop()
            work += self._fill(block, nodes, depth)
        leaves: list[list[int]] = [[] for _ in self.blocks]
        for node, is_leaf in enumerate(self.is_leaf):
            if is_leaf:
                self.block_of[node] = self._home([self.block_of[user] for user in self.users[node]])
                leaves[self.block_of[node]].append(node)
        for holder, found in zip(self.blocks, leaves, strict=True):
            holder.items = found + holder.items
        return Nesting(self.blocks, self.block_of)

    def _fill(self, block: int, nodes: list[int], depth: int) -> list[tuple[int, list[int], int]]:
        """The items of a block whose path has ``depth`` parts, and the blocks among them, still to be filled."""
        mine = self.blocks[block]
        mine.count, mine.adapters = len(nodes), sum([self.is_adapter[node] for node in nodes])
        if all(len(self.paths[node]) <= depth for node in nodes):
            mine.items = nodes
            for node in nodes:
                self.block_of[node] = block
            return []
        inner = []
        for members in _Cutting(nodes, self._keys(nodes, depth), self.users).parts():
            first = members[0]
            if len(self.paths[first]) <= depth:
                mine.items.append(first)
                self.block_of[first] = block
                continue
            below = self._shared_depth(members, depth + 1)
            path = self.paths[first][:below]
            self.blocks.append(Block(".".join(path), ".".join(path[depth:]), block, mine.depth + 1))
            mine.items.append(self.size + len(self.blocks) - 1)
            inner.append((len(self.blocks) - 1, members, below))
        return inner

    def _keys(self, nodes: Sequence[int], depth: int) -> list[str | None]:
        """The module below ``depth`` that each node is in."""
        paths = [self.paths[node] for node in nodes]
        return [path[depth] if len(path) > depth else None for path in paths]

    def _shared_depth(self, nodes: Sequence[int], depth: int) -> int:
        """How many parts the paths of all have in common: a module with nothing but one module in it is one with it."""
        first = self.paths[nodes[0]]
        shortest = min(len(self.paths[node]) for node in nodes)
        while depth < shortest and all(self.paths[node][depth] == first[depth] for node in nodes):
            depth += 1
        return depth

    def _home(self, users: Sequence[int]) -> int:
        """The innermost block that holds all of these."""
        homes = set(users) or {0}
        while len(homes) > 1:
            deepest = max(homes, key=lambda block: (self.blocks[block].depth, block))
            homes.remove(deepest)
            homes.add(self.blocks[deepest].parent)
        return homes.pop()


def topological(users: Sequence[Sequence[int]]) -> list[int]:
    """Every node before its users; as in the order they are given, as far as that goes."""
    waiting = [0] * len(users)
    for targets in users:
        for target in targets:
            waiting[target] += 1
    ready = [node for node, count in enumerate(waiting) if not count]
    order = []
    while ready:
        node = heappop(ready)
        order.append(node)
        for target in users[node]:
            waiting[target] -= 1
            if not waiting[target]:
                heappush(ready, target)
    return order


class _Cutting:
    """Groups of nodes that can be computed one after the other: those with one key, and each with None by itself.

    Where no group can be computed as a whole, what can be of the first one is split off.
    """

    def __init__(self, nodes: Sequence[int], keys: Sequence[str | None], users: Sequence[Sequence[int]]) -> None:
        self.nodes = nodes
        self.members: list[list[int]] = []
        self.group_of: dict[int, int] = {}
        named: dict[str, int] = {}
        for key, node in zip(keys, nodes, strict=True):
            group = len(self.members) if key is None else named.setdefault(key, len(self.members))
            if group == len(self.members):
                self.members.append([])
            self.members[group].append(node)
            self.group_of[node] = group
        self.users = {node: [user for user in users[node] if user in self.group_of] for node in nodes}
        self.waiting = dict.fromkeys(nodes, 0)
        self.outer = [0] * len(self.members)
        for node, targets in self.users.items():
            for user in targets:
                self.waiting[user] += 1
                self.outer[self.group_of[user]] += self.group_of[user] != self.group_of[node]
        self.ready = [group for group, count in enumerate(self.outer) if not count]
        self.free: list[list[int]] = [[] for _ in self.members]
        """The nodes of each group that wait for nothing, as heaps."""
        for node, count in self.waiting.items():
            if not count:
                self.free[self.group_of[node]].append(node)
        for heap in self.free:
            heapify(heap)
        self.done: set[int] = set()

    def parts(self) -> list[list[int]]:
        found = []
        cursor = 0
        while len(self.done) < len(self.nodes):
            if self.ready:
                group = heappop(self.ready)
            else:
                while self.nodes[cursor] in self.done:
                    cursor += 1
                group = self.group_of[self.nodes[cursor]]
            found.append(self._compute(group))
        return found

    def _compute(self, group: int) -> list[int]:
        """Everything of a group that can be computed now, operands first."""
        part = []
        free = self.free[group]
        while free:
            node = heappop(free)
            part.append(node)
            for user in self.users[node]:
                self.waiting[user] -= 1
                other = self.group_of[user]
                if not self.waiting[user]:
                    heappush(self.free[other], user)
                if other != group:
                    self.outer[other] -= 1
                    if not self.outer[other]:
                        heappush(self.ready, other)
        self.done.update(part)
        return part
