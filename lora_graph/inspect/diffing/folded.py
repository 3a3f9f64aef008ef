"""Weights of one model that the other computes from its own: transposed, scaled, merged ahead of time."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from lora_graph.inspect.diffing.equivalence import tolerance
from lora_graph.inspect.diffing.matching import Matching
from lora_graph.inspect.diffing.regions import matched_operands
from lora_graph.inspect.diffing.side import Side, is_leaf
from lora_graph.interpret import evaluate
from lora_graph.ir.graph import Graph
from lora_graph.ir.leaves import Input, Parameter
from lora_graph.ir.types import TensorType, type_of
from lora_graph.ir.value import Value, topological

LARGEST = 64
"""Ops on weights that are computed for a comparison."""

Folded = tuple[tuple[Value, ...], tuple[Value, ...]]


def folded(known: Matching) -> Iterator[Folded]:
    """Where a matched op uses a parameter without a match in one graph, and in the other what is computed from such and
    comes to the same array: both, with the parameters it is computed from."""
    done: set[Value] = set()
    for user, other in known.match.items():
        for p, q in matched_operands(known, user, other):
            if p in known.match or q in known.back or is_leaf(p) == is_leaf(q) or p in done:
                continue
            done.add(p)
            computed = _computed(known.a, p, known.match) or _computed(known.b, q, known.back)
            if computed and _is_same_array(known, p, q):
                yield (computed, (q,)) if is_leaf(q) else ((p,), computed)


def _computed(side: Side, value: Value, matched: dict[Value, Value]) -> tuple[Value, ...]:
    """``value`` and what it is computed from, where that are arrays of parameters without a match; else nothing."""
    values = [] if is_leaf(value) else topological([value])
    leaves = [v for v in values if isinstance(v.op, Parameter | Input)]
    is_known = all(side.name(leaf) in side.state and leaf not in matched for leaf in leaves)
    is_weight = leaves and is_known and all(v.op.is_pure and v.type.is_static for v in values)
    return tuple(values) if is_weight and len(values) <= LARGEST else ()


def _is_same_array(known: Matching, p: Value, q: Value) -> bool:
    """Whether two Values of weights come to the same numbers, up to rounding."""
    found = []
    for side, value in ((known.a, p), (known.b, q)):
        if isinstance(value.op, Input) or (isinstance(value.op, Parameter) and side.name(value) not in side.state):
            return False
        found.append(evaluate(Graph((), {"w": value}), {}, _state(side, value))["w"])
    first, second = found
    if type_of(first) != type_of(second) or not TensorType(first.dtype, ()).is_float:
        return False
    largest = float(np.abs(first).max(initial=0.0))
    return bool(np.abs(first.astype(np.float64) - second).max(initial=0.0) <= tolerance(p) * largest)


def _state(side: Side, value: Value) -> dict[str, np.ndarray]:
    names = [v.op.label for v in topological([value]) if isinstance(v.op, Parameter)]
    return {name: np.asarray(side.state[name]) for name in names}
