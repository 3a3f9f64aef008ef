"""What a graph holds in memory step by step, and what it could let go for a while because it can be computed again."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from lora_graph.interpret.early import Early
from lora_graph.interpret.nodes import Kind
from lora_graph.interpret.plan import arrange
from lora_graph.ir import dims
from lora_graph.ir.graph import Graph
from lora_graph.ir.types import TensorType, Type
from lora_graph.ops.activation import Activation
from lora_graph.ops.reduce import Distribution
from lora_graph.rewrite.cost import COSTLY, NAMED_DIMENSION

COMPUTED = (Kind.PLANNED, Kind.FRESH)
LONGEST = 16
"""The most ops that are computed again for the sake of one Value."""
ELEMENT, SLOW = 32, 8
"""To pass over an element takes as long as 32 operations of a large product, a costly function eight times that."""
SLOW_OPS = (*COSTLY, Activation, Distribution)
PART = 16
"""Of the choices at a peak, one in so many is made before the peak is looked for again."""


class Gap(NamedTuple):
    """After step ``last`` and before step ``again``, for which it is computed once more, a Value is not held."""

    last: int
    again: int


class Choice(NamedTuple):
    """``node`` would not be held in ``gap``, and ``chain``, which ends in it, be computed at the end of that."""

    node: int
    gap: Gap
    chain: tuple[int, ...]
    work: int


class Timeline:
    """The nodes of a graph in the order in which the interpreter runs them, and the bytes in use at each step.

    A node stands for the memory that it owns, views of it included.
    """

    def __init__(self, graph: Graph, sizes: Mapping[str, int]) -> None:
        names = sorted({name for value in graph.values for name in _names(value.result_type)})
        early = Early(graph, (), names)
        bound = {**dict.fromkeys(names, NAMED_DIMENSION), **sizes}
        listed, self.units, _, storage = arrange(graph, {*early.free, *early.by_dims}, bound)
        self.nodes, self.outputs = listed.nodes, listed.outputs
        self.gaps: dict[int, Gap] = {}
        self._at = {i: step for step, unit in enumerate(self.units) for i in unit}
        self._uses: list[list[int]] = [[] for _ in self.nodes]
        for i, step in self._at.items():
            for source in self.sources(i):
                self._uses[source].append(step)
        kept = {self.nodes[i].root for i in self.outputs.values()}
        scratch = {i for i, buffer in storage.of.items() if buffer.is_scratch}
        self._movable = [i for i in self._at if i not in kept and i not in scratch and self._is_movable(i)]
        self._in_use = np.zeros(len(self.units) + 1, np.int64)
        for buffer in storage.buffers:
            if buffer.output is None:
                self._in_use[buffer.first : buffer.last + 1] += buffer.nbytes
        for i, step in self._at.items():
            if self.nodes[i].kind is Kind.FRESH:
                self._in_use[step : storage.last[i] + 1] += self.nodes[i].nbytes

    @property
    def peak(self) -> int:
        """The most bytes in use at one time, what is given and outputs left out."""
        return int(self._in_use.max(initial=0))

    @property
    def work(self) -> int:
        """Operations of a large product that would take as long as one run."""
        return sum(map(self._work, self._at))

    def sources(self, i: int) -> dict[int, None]:
        """The nodes whose memory a node reads."""
        return dict.fromkeys(self.nodes[operand].root for operand in self.nodes[i].operands)

    def depths(self) -> list[int]:
        """How many nodes follow one another up to each node."""
        depths: list[int] = []
        for node in self.nodes:
            depths.append(1 + max((depths[o] for o in (*node.operands, *node.waits)), default=-1))
        return depths

    def is_there(self, i: int, step: int) -> bool:
        """Whether a node is held at ``step``."""
        if self.nodes[i].kind not in COMPUTED:
            return True
        gap = self.gaps.get(i)
        if gap is not None and gap.last < step < gap.again:
            return False
        return self._at[i] < step <= max(self._uses[i], default=-1)

    def chain(self, i: int, step: int) -> tuple[int, ...] | None:
        """What is computed, operands first, to have node ``i`` again at ``step``; None where that is too much."""
        chain, stack = {i}, [i]
        while stack:
            missing = [s for s in self.sources(stack.pop()) if s not in chain and not self.is_there(s, step)]
            if len(chain) + len(missing) > LONGEST or not all(self.nodes[source].op.is_pure for source in missing):
                return None
            chain.update(missing)
            stack += missing
        return tuple(sorted(chain))

    def let_go(self, budget: float) -> None:
        """Open gaps where most is in use, as long as that lowers the peak and the work stays within ``budget``."""
        while True:
            step = int(self._in_use.argmax())
            choices = [choice for i in self._movable if (choice := self._choice(i, step, budget)) is not None]
            if not choices:
                return
            choices.sort(key=lambda choice: choice.work / self.nodes[choice.node].nbytes)
            for first in choices[: 1 + len(choices) // PART]:
                choice = self._choice(first.node, step, budget)
                if choice is not None:
                    self._apply(choice)
                    budget -= choice.work

    def _choice(self, i: int, step: int, budget: float) -> Choice | None:
        """The gap that node ``i`` could have around ``step``, unless that is too much work or takes as much memory."""
        uses = self._uses[i]
        following = bisect_left(uses, step)
        if i in self.gaps or self._at[i] >= step or following == len(uses) or uses[following] == step:
            return None
        gap = Gap(uses[following - 1] if following else self._at[i], uses[following])
        chain = self.chain(i, gap.again)
        if chain is None or not self.gaps.keys().isdisjoint(chain):
            return None  # what is to be had again later stays where it is
        work = sum(map(self._work, chain))
        passing = sum(self.nodes[n].nbytes for n in chain if n != i and not self.nodes[n].op.elementwise)
        return Choice(i, gap, chain, work) if work <= budget and self._in_use[gap.again] + passing < self.peak else None

    def _apply(self, choice: Choice) -> None:
        again = choice.gap.again
        self.gaps[choice.node] = choice.gap
        self._in_use[choice.gap.last + 1 : again] -= self.nodes[choice.node].nbytes
        for i in choice.chain:
            for source in self.sources(i):
                if source not in choice.chain:
                    insort(self._uses[source], again)

    def _is_movable(self, i: int) -> bool:
        node = self.nodes[i]
        return isinstance(node.type, TensorType) and node.nbytes > 0 and node.op.is_pure

    def _work(self, i: int) -> int:
        node = self.nodes[i]
        kinds = [kind for o in node.operands if isinstance(kind := self.nodes[o].type, TensorType)]
        flops = int(node.op.flops(node.type, *kinds))
        elements = max((int(self.nodes[o].size or 0) for o in (i, *node.operands)), default=0)
        each = SLOW if isinstance(node.op, SLOW_OPS) else min(SLOW, max(1, flops // max(elements, 1)))
        return max(flops, ELEMENT * each * elements)


def _names(kind: Type) -> set[str]:
    tensors = (kind,) if isinstance(kind, TensorType) else kind.items
    return {name for tensor in tensors for size in tensor.shape for name in dims.names(size)}
