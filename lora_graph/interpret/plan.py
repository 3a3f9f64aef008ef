"""A plan: the flat list of steps, and the memory, by which a graph runs for one binding of its named dimensions."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from lora_graph.interpret.buffers import Storage, assign
from lora_graph.interpret.memory import ALIGNMENT, carve
from lora_graph.interpret.nodes import Kind, Node, NodeList, number
from lora_graph.interpret.schedule import schedule
from lora_graph.interpret.steps import Environment, Forget, Hook, Return, Step, Tiled, Write
from lora_graph.interpret.tiles import Tiling, tiling
from lora_graph.ir.graph import Graph
from lora_graph.ir.types import Array
from lora_graph.ir.value import Value


@dataclass(frozen=True)
class Result:
    """An output: ``node`` holds it, and ``aliases`` are the nodes whose memory is the output's own array."""

    name: str
    node: Node
    position: int
    aliases: tuple[tuple[int, tuple[int, ...]], ...]


class Arrangement(NamedTuple):
    """The nodes of a graph, the units in which they run, in order, and the memory they take."""

    listed: NodeList
    units: list[list[int]]
    tilings: list[Tiling | None]
    storage: Storage


def arrange(graph: Graph, held: Collection[Value], sizes: Mapping[str, int]) -> Arrangement:
    """How ``graph`` runs for ``sizes``, ``held`` being known before."""
    listed = number(graph, held, sizes)
    units, tilings = _cut(listed.nodes)
    elements = [None if cut is None else cut.elements for cut in tilings]
    storage = assign(listed.nodes, units, elements, listed.outputs, _claims(listed))
    return Arrangement(listed, units, tilings, storage)


class Plan:
    """How ``graph`` runs for ``sizes``. It is immutable; every run has an environment, whose arena is its own."""

    def __init__(self, graph: Graph, held: Collection[Value], sizes: Mapping[str, int]) -> None:
        listed, units, tilings, self._storage = arrange(graph, held, sizes)
        self.nodes = listed.nodes
        self._extents = {i: cut.extent for unit, cut in zip(units, tilings, strict=True) if cut for i in unit}
        self.given = [(i, node.value) for i, node in enumerate(self.nodes) if node.kind is Kind.GIVEN]
        self.held = [(i, node.value) for i, node in enumerate(self.nodes) if node.kind is Kind.HELD]
        self.results = [Result(name, self.nodes[i], i, self._aliases(name)) for name, i in listed.outputs.items()]
        self.steps = self._assemble(units, tilings, listed.outputs)
        self._runs: list[Callable[[Environment], None]] = [step.run for step in self.steps]

    @property
    def memory(self) -> int:
        """Bytes of the buffers that one run needs, outputs and what ops allocate themselves left out."""
        return self._storage.nbytes

    def environment(self, held: Mapping[Value, Array]) -> Environment:
        """The arrays that stay the same from run to run: those of ``held``, the buffers, and views of them."""
        env: Environment = [None] * len(self.nodes)
        for i, value in self.held:
            env[i] = held[value]
        arena = np.empty(self.memory + ALIGNMENT, np.uint8)
        arena = arena[-arena.ctypes.data % ALIGNMENT :]
        for i, node in enumerate(self.nodes):
            buffer = self._storage.of.get(i)
            if buffer is not None and buffer.output is None:
                shape = self._extents[i] if buffer.is_scratch else None
                env[i] = carve(arena[buffer.offset :], node.type, shape)
            elif node.kind is Kind.VIEW and self._is_static(node):
                env[i] = node.op.evaluate(env[node.operands[0]])
        return env

    def run(
        self, environment: Environment, given: Mapping[Value, Array], out: Mapping[str, Array], hook: Hook | None
    ) -> dict[str, Array]:
        """The outputs by name, in the arrays of ``out`` or in new ones. ``environment`` stays as it is."""
        env = environment.copy()
        for i, value in self.given:
            env[i] = given[value]
        results = {}
        for result in self.results:
            target = out.get(result.name)
            if target is None:
                target = np.empty(result.node.shape, result.node.tensor.dtype)
            results[result.name] = target
            own = target if target.flags.c_contiguous else np.empty(target.shape, target.dtype)
            for i, shape in result.aliases:
                env[i] = own.reshape(shape)
        if hook is None:
            for run in self._runs:
                run(env)
        else:
            for step in self.steps:
                step.run_timed(env, hook)
        for result in self.results:
            target = results[result.name]
            if not result.aliases or not target.flags.c_contiguous:
                np.copyto(target, env[result.position])
        return results

    def _is_static(self, node: Node) -> bool:
        buffer = self._storage.of.get(node.root)
        return buffer is not None and buffer.output is None

    def _aliases(self, name: str) -> tuple[tuple[int, tuple[int, ...]], ...]:
        return tuple((i, self.nodes[i].shape) for i, buffer in self._storage.of.items() if buffer.output == name)

    def _assemble(
        self, units: Sequence[Sequence[int]], tilings: Sequence[Tiling | None], outputs: Mapping[str, int]
    ) -> list[Step]:
        steps: list[Step] = []
        viewed: set[int] = set()
        dying: list[list[int]] = [[] for _ in range(len(units) + 1)]
        for i, node in enumerate(self.nodes):
            if self.nodes[node.root].kind is Kind.FRESH:
                dying[self._storage.last[node.root]].append(i)
        for unit, cut, forgotten in zip(units, tilings, dying, strict=False):
            for operand in dict.fromkeys(o for i in unit for o in self.nodes[i].operands):
                self._view(operand, viewed, steps)
            if cut is not None:
                scratch = {i for i in unit if self._storage.of[i].is_scratch}
                steps.append(Tiled(self.nodes, unit, cut, scratch))
            else:
                (only,) = unit
                step = Write if self.nodes[only].kind is Kind.PLANNED else Return
                steps.append(step(self.nodes, only))
            if forgotten:
                steps.append(Forget(forgotten))
        for position in outputs.values():
            self._view(position, viewed, steps)
        return steps

    def _view(self, position: int, viewed: set[int], steps: list[Step]) -> None:
        """Emit the views that lead to ``position``, where their memory is not known before the run."""
        chain = []
        while self.nodes[position].kind is Kind.VIEW and position not in viewed:
            if not self._is_static(self.nodes[position]):
                chain.append(position)
            viewed.add(position)
            position = self.nodes[position].operands[0]
        steps.extend(Return(self.nodes, view) for view in reversed(chain))


def _cut(nodes: Sequence[Node]) -> tuple[list[list[int]], list[Tiling | None]]:
    """The scheduled groups as units of execution: whole where they run in tiles, else op by op."""
    units: list[list[int]] = []
    tilings: list[Tiling | None] = []
    for group in schedule(nodes):
        cut = tiling(nodes, group)
        parts = [[i] for i in group] if cut is None else [group]
        units.extend(parts)
        tilings.extend([cut] * len(parts))
    return units, tilings


def _claims(listed: NodeList) -> dict[int, str]:
    """Which nodes can be computed right in the array of an output: each at most one, results before views of them."""
    claims: dict[int, str] = {}
    nodes = listed.nodes
    for whole in (True, False):
        for name, position in listed.outputs.items():
            node = nodes[position]
            direct = node.kind is Kind.PLANNED if whole else node.kind is Kind.VIEW and node.contiguous
            if direct and node.root not in claims and node.tensor.size == nodes[node.root].size:
                claims[node.root] = name
    return claims
