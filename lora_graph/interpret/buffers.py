"""Memory of a plan: which results share a buffer, and where in one arena each buffer lies."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from lora_graph.interpret.memory import rounded
from lora_graph.interpret.nodes import Kind, Node


@dataclass(slots=True)
class Buffer:
    """Memory in use from step ``first`` to step ``last``: part of the arena, or the array of an output."""

    nbytes: int
    first: int
    last: int
    is_scratch: bool = False
    """It holds one tile rather than the whole array."""
    output: str | None = None
    offset: int = 0


@dataclass
class Storage:
    """The buffer of each PLANNED node, and the last step that reads the memory of each node."""

    buffers: list[Buffer] = field(default_factory=list)
    of: dict[int, Buffer] = field(default_factory=dict)
    last: list[int] = field(default_factory=list)
    nbytes: int = 0


def assign(
    nodes: Sequence[Node],
    steps: Sequence[Sequence[int]],
    tile_elements: Sequence[int | None],
    outputs: Mapping[str, int],
    claims: Mapping[int, str],
) -> Storage:
    """A buffer for every PLANNED node, shared in place wherever an operand dies and ``Op.in_place`` allows it.

    ``tile_elements`` is the size of a tile for the steps that run in tiles; what only such a step reads gets one tile
    of scratch. ``claims`` says which nodes are computed directly into the array of an output.
    """
    storage = Storage(last=_last_uses(nodes, steps, outputs))
    for number, (step, elements) in enumerate(zip(steps, tile_elements, strict=True)):
        _assign_step(number, step, elements, nodes, storage, claims)
    for i, buffer in storage.of.items():
        buffer.last = max(buffer.last, storage.last[i])
    storage.nbytes = place(storage.buffers, len(steps))
    return storage


def _last_uses(nodes: Sequence[Node], steps: Sequence[Sequence[int]], outputs: Mapping[str, int]) -> list[int]:
    last = [-1] * len(nodes)
    for number, step in enumerate(steps):
        for i in step:
            for operand in nodes[i].operands:
                last[nodes[operand].root] = number
    for i in outputs.values():
        last[nodes[i].root] = len(steps)
    return last


def _assign_step(
    number: int,
    step: Sequence[int],
    elements: int | None,
    nodes: Sequence[Node],
    storage: Storage,
    claims: Mapping[int, str],
) -> None:
    final: dict[int, int] = {}
    crossed: set[int] = set()
    for position, i in enumerate(step):
        for operand in nodes[i].operands:
            final[nodes[operand].root] = position
            if nodes[operand].root != operand:
                crossed.add(nodes[operand].root)

    def is_done(root: int, position: int) -> bool:
        dies = root in storage.of and storage.last[root] == number
        return dies and root not in crossed and final[root] == position

    idle: list[int] = []
    for position, i in enumerate(step):
        node = nodes[i]
        done = [root for root in dict.fromkeys(node.operands) if is_done(root, position)]
        if node.kind is Kind.PLANNED:
            is_scratch = elements is not None and storage.last[i] == number
            forbidden = node.operands[node.op.in_place :]
            offered = [r for r in node.operands[: node.op.in_place] if r in done and r not in forbidden] + idle
            taken = next((r for r in offered if _fits(nodes[r], node, storage.of[r], is_scratch)), None)
            if taken is None:
                size = elements * node.tensor.dtype.itemsize if is_scratch and elements is not None else node.nbytes
                storage.of[i] = Buffer(size, number, number, is_scratch)
                storage.buffers.append(storage.of[i])
            else:
                storage.of[i] = storage.of[taken]
                (idle if taken in idle else done).remove(taken)
            storage.of[i].output = claims.get(i)
        idle += done


def _fits(old: Node, new: Node, buffer: Buffer, is_scratch: bool) -> bool:
    return old.type == new.type and buffer.is_scratch == is_scratch


def place(buffers: Sequence[Buffer], steps: int) -> int:
    """Give each buffer the smallest free hole of the arena that holds it, in order of time; return the sum."""
    begins: list[list[Buffer]] = [[] for _ in range(steps)]
    ends: list[list[Buffer]] = [[] for _ in range(steps + 1)]
    for buffer in buffers:
        if buffer.output is None and buffer.nbytes:
            begins[buffer.first].append(buffer)
            ends[buffer.last].append(buffer)
    arena = _Arena()
    for begin, end in zip(begins, ends[:-1], strict=True):
        for buffer in begin:
            buffer.offset = arena.take(rounded(buffer.nbytes))
        for buffer in end:
            arena.give(buffer.offset, rounded(buffer.nbytes))
    return arena.size


class _Arena:
    """Free holes of a growing piece of memory, as sorted ``(offset, bytes)``, neighbours always joined."""

    def __init__(self) -> None:
        self.size = 0
        self.holes: list[tuple[int, int]] = []

    def take(self, nbytes: int) -> int:
        fitting = [hole for hole in self.holes if hole[1] >= nbytes]
        if fitting:
            offset, room = min(fitting, key=lambda hole: (hole[1], hole[0]))
            self.holes.remove((offset, room))
            if room > nbytes:
                insort(self.holes, (offset + nbytes, room - nbytes))
            return offset
        offset = self.size
        if self.holes and sum(self.holes[-1]) == self.size:
            offset, _ = self.holes.pop()
        self.size = offset + nbytes
        return offset

    def give(self, offset: int, nbytes: int) -> None:
        at = bisect_left(self.holes, (offset, 0))
        if at < len(self.holes) and self.holes[at][0] == offset + nbytes:
            nbytes += self.holes.pop(at)[1]
        if at and sum(self.holes[at - 1]) == offset:
            start, before = self.holes.pop(at - 1)
            offset, nbytes = start, before + nbytes
        insort(self.holes, (offset, nbytes))
