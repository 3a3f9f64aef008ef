"""What a plan executes: small objects that read and write the list of a run's arrays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import itemgetter
from time import perf_counter
from typing import Any, Protocol

import numpy as np

from lora_graph.interpret.nodes import Node, kernel
from lora_graph.interpret.tiles import Pattern, Tiling, patterns
from lora_graph.ir.types import Array
from lora_graph.ir.value import Value

Environment = list[Any]
"""The array of each node of the plan."""
Hook = Callable[[Value, float], None]
"""Called with each executed Value and the seconds it took."""


class Step(Protocol):
    def run(self, env: Environment) -> None: ...
    def run_timed(self, env: Environment, hook: Hook) -> None: ...


def getter(positions: Sequence[int]) -> Callable[[Environment], tuple[Any, ...]]:
    """The items of a list at ``positions``, as a tuple."""
    if len(positions) > 1:
        return itemgetter(*positions)
    if positions:
        (only,) = positions
        return lambda env: (env[only],)
    return lambda env: ()


class _Single:
    """One op, at ``position``."""

    __slots__ = ("get", "kernel", "operands", "position", "value")

    def __init__(self, nodes: Sequence[Node], position: int) -> None:
        node = nodes[position]
        self.kernel, self.operands, self.position, self.value = kernel(node), node.operands, position, node.value
        self.get = getter(node.operands)

    def run(self, env: Environment) -> None:
        raise NotImplementedError

    def run_timed(self, env: Environment, hook: Hook) -> None:
        start = perf_counter()
        self.run(env)
        hook(self.value, perf_counter() - start)


class Write(_Single):
    """An op that writes its result to the array that the environment already holds for it."""

    __slots__ = ()

    def run(self, env: Environment) -> None:
        self.kernel(*self.get(env), out=env[self.position])


class Return(_Single):
    """An op, or a view of an array that is new in every run, whose result the environment takes over."""

    __slots__ = ()

    def run(self, env: Environment) -> None:
        env[self.position] = self.kernel(*self.get(env))


class Forget:
    """Releases arrays that no later step reads."""

    __slots__ = ("positions",)

    def __init__(self, positions: Sequence[int]) -> None:
        self.positions = positions

    def run(self, env: Environment) -> None:
        for position in self.positions:
            env[position] = None

    def run_timed(self, env: Environment, hook: Hook) -> None:
        self.run(env)


class Tiled:
    """A group of ops, all of them on one tile before the next tile begins."""

    __slots__ = ("calls", "fetch", "positions", "tiles")

    def __init__(self, nodes: Sequence[Node], group: Sequence[int], tiling: Tiling, scratch: set[int]) -> None:
        cells: dict[tuple[int, Pattern], int] = {}

        def cell(i: int, pattern: Pattern) -> int:
            return cells.setdefault((i, None if i in scratch else pattern), len(cells))

        self.calls = []
        for i in group:
            node, result = nodes[i], tuple(d == 1 for d in nodes[i].shape)
            operands = [cell(o, pattern) for o, pattern in zip(node.operands, patterns(node, nodes), strict=True)]
            self.calls.append((kernel(node), getter(operands), cell(i, result), node.value))
        self.positions = [i for i, _ in cells]
        self.fetch = getter(self.positions)
        self.tiles = list(tiling.tiles([pattern for _, pattern in cells]))

    def run(self, env: Environment) -> None:
        arrays, calls = self.fetch(env), self.calls
        for tile in self.tiles:
            cells = [array[index] for array, index in zip(arrays, tile, strict=True)]
            for function, get, out, _ in calls:
                function(*get(cells), out=cells[out])

    def run_timed(self, env: Environment, hook: Hook) -> None:
        arrays, seconds = self.fetch(env), np.zeros(len(self.calls))
        for tile in self.tiles:
            cells: list[Array] = [array[index] for array, index in zip(arrays, tile, strict=True)]
            for number, (function, get, out, _) in enumerate(self.calls):
                start = perf_counter()
                function(*get(cells), out=cells[out])
                seconds[number] += perf_counter() - start
        for (*_, value), spent in zip(self.calls, seconds, strict=True):
            hook(value, float(spent))
