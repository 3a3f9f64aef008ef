"""Where two ways to compute a graph part: the first value that is not the same any more."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from lora_graph.inspect.differences import FLOATS, Difference, Tolerance, difference
from lora_graph.inspect.engines import Engine, Given, State
from lora_graph.ir.graph import Graph
from lora_graph.ir.opaque import Opaque
from lora_graph.ir.types import TupleType
from lora_graph.ir.value import Value


@dataclass(frozen=True)
class Divergence:
    """The first value, in the order of the graph, that differs by more than the tolerance.

    ``alone`` says that it does so only where no other value is asked for, so that an optimization across several ops
    is the cause.
    """

    value: str
    op: str
    type: str
    scope: str
    difference: Difference
    alone: bool

    def __str__(self) -> str:
        where = f" in {self.scope}" if self.scope else ""
        how = ", only where no other value is kept: an optimization across several ops" if self.alone else ""
        return f"{self.value} ({self.op}{where}, {self.type}) by {self.difference.absolute:.3g}{how}"


def precisions(graph: Graph) -> dict[Value, np.dtype[Any]]:
    """The narrowest float that is computed in on the way to each Value, for those that some float is on the way to."""
    found: dict[Value, np.dtype[Any]] = {}
    for value in graph.values:
        kind = value.result_type
        own = kind.items if isinstance(kind, TupleType) else (kind,)
        dtypes = [item.dtype for item in own] if value.operands else []
        floats = [d for d in (*dtypes, *(found[o] for o in value.operands if o in found)) if d.name in FLOATS]
        if floats:
            found[value] = min(floats, key=lambda dtype: FLOATS[dtype.name])
    return found


def precision(value: Value, narrowest: Mapping[Value, np.dtype[Any]]) -> np.dtype[Any]:
    """What the tolerance for ``value`` goes by; its own dtype where that is no float."""
    return narrowest.get(value, value.dtype) if value.dtype.name in FLOATS else value.dtype


def random_values(graph: Graph) -> set[Value]:
    """The Values that depend on random numbers which an op draws by itself, so that no two runs agree."""
    found: set[Value] = set()
    for value in graph.values:
        is_drawn = isinstance(value.op, Opaque) and not value.op.is_pure
        if is_drawn or any(operand in found for operand in value.operands):
            found.add(value)
    return found


def first_divergence(engine: Engine, given: Given, tolerance: Tolerance, outputs: Collection[str]) -> Divergence | None:
    """The first value of the engine's program that it computes otherwise than the reference; None if there is none.

    Only what ``outputs`` depend on is looked at, all of it at once. Where asking for all makes the difference go
    away, values are asked for one at a time, in a bisection: what follows a wrong value is taken to be wrong.
    """
    graph = engine.program.graph
    reached = set(graph.with_outputs({name: graph.outputs[name] for name in outputs}).values)
    left_out, narrowest = random_values(graph), precisions(graph)
    wanted = {n: v for n, v in engine.nameable().items() if v in reached and v not in left_out}
    expected = engine.program.reference(given, wanted)

    def apart(found: State) -> dict[str, Difference]:
        compared = {name: difference(array, expected[name], wanted[name].dtype) for name, array in found.items()}
        return {name: d for name, d in compared.items() if not tolerance.allows(d, precision(wanted[name], narrowest))}

    if not wanted:
        return None
    together = apart(engine.values(given, wanted))
    if together:
        name = next(iter(together))
        return _divergence(graph, name, wanted, together[name], alone=False)
    names = list(wanted)
    low, high = -1, len(names) - 1
    last: Mapping[str, Difference] = apart(engine.values(given, {names[high]: wanted[names[high]]}))
    if not last:
        return None
    while high - low > 1:
        middle = (low + high) // 2
        found = apart(engine.values(given, {names[middle]: wanted[names[middle]]}))
        low, high, last = (low, middle, found) if found else (middle, high, last)
    return _divergence(graph, names[high], wanted, last[names[high]], alone=True)


def _divergence(graph: Graph, name: str, wanted: Mapping[str, Value], apart: Difference, *, alone: bool) -> Divergence:
    value = wanted[name]
    scope = graph.notes[value].scope if value in graph.notes else ""
    return Divergence(name, value.op.name, str(value.type), scope, apart, alone)
