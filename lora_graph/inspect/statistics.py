"""Statistics of weights, and of what adapters change them by."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import reduce
from operator import add

import numpy as np

from lora_graph.inspect.inspected import Inspected
from lora_graph.inspect.spectrum import as_matrix, entropy_rank, rank_of, singular_values, tolerance
from lora_graph.inspect.widen import widened, widened_state
from lora_graph.interpret import evaluate
from lora_graph.ir.graph import Graph
from lora_graph.ir.leaves import Parameter
from lora_graph.ir.types import Array, type_of
from lora_graph.ir.value import Value, topological
from lora_graph.ops.arithmetic import Add
from lora_graph.rewrite.fold import hoist
from lora_graph.rewrite.pipeline import optimize_graph
from lora_graph.rewrite.rule import Facts


@dataclass(frozen=True)
class Weights:
    """Statistics of one array; the numbers are of its finite entries, None where it has none."""

    name: str
    type: str
    size: int
    minimum: float | None
    maximum: float | None
    mean: float | None
    std: float | None
    zeros: int
    nonfinite: int


@dataclass(frozen=True)
class Change:
    """What adapters change one weight by, ΔW, computed in float64; norms are Frobenius norms."""

    weight: str
    adapters: tuple[str, ...]
    """The parameters of adapters that it follows from."""
    shape: tuple[int, ...]
    effective_rank: int
    """Singular values above max(m, n) · ε · the largest one, with the ε of float64.

    Where ΔW is no sum of products but W' - W, as DoRA's, they count above max(m, n) · ε · ‖W‖ with the ε that W has."""
    entropy_rank: float
    """Of Roy & Vetterli (2007)."""
    norm: float
    relative: float
    """The norm as a part of the weight's."""
    largest: float
    """The largest singular value."""


@dataclass(frozen=True)
class Values:
    """The statistics of all arrays of a model, and of what adapters change."""

    weights: tuple[Weights, ...]
    changes: tuple[Change, ...]
    apart: tuple[str, ...]
    """Parameters of adapters that no weight can stand for: what they add is no change of one."""


def values_of(model: Inspected) -> Values:
    """The statistics of a model that has been opened; ValueError for a graph that came without its state."""
    missing = [name for name in model.graph.parameters if name not in model.state]
    if missing:
        raise ValueError(f"{model.label}: the values of {missing[0]} are not known: give the state of the graph")
    weights = tuple(_statistics(name, model.state[name]) for name in model.graph.parameters)
    changes = tuple(_changes(model))
    used = {name for change in changes for name in change.adapters}
    apart = tuple(name for name in model.graph.parameters if name in model.adapters and name not in used)
    return Values(weights, changes, apart)


def details(values: Values, graph: Graph) -> dict[Value, dict[str, str]]:
    """What to say about each parameter of ``graph``: its statistics, and what adapters change it by, in words."""
    found = {graph.parameters[weights.name]: _described(weights) for weights in values.weights}
    for change in values.changes:
        rank = f"effective rank {change.effective_rank}, {change.entropy_rank:.1f} by entropy"
        found[graph.parameters[change.weight]]["ΔW"] = f"{rank}; norm {change.norm:.3g}, {change.relative:.1%} of ‖W‖"
    return found


def _described(weights: Weights) -> dict[str, str]:
    words = {}
    if weights.minimum is not None:
        words["range"] = f"{weights.minimum:.3g} … {weights.maximum:.3g}"
        words["mean ± std"] = f"{weights.mean:.3g} ± {weights.std:.3g}"
    if weights.zeros:
        words["zeros"] = f"{weights.zeros / weights.size:.1%}"
    if weights.nonfinite:
        words["not finite"] = f"{weights.nonfinite:,}"
    return words


def _statistics(name: str, array: Array) -> Weights:
    wide = array.astype(np.float64)
    kept = wide[np.isfinite(wide)]
    low, high, mean, std = (float(f(kept)) if kept.size else None for f in (np.min, np.max, np.mean, np.std))
    zeros, nonfinite = int(np.count_nonzero(wide == 0)), wide.size - kept.size
    return Weights(name, str(type_of(array)), array.size, low, high, mean, std, zeros, nonfinite)


def _changes(model: Inspected) -> Iterator[Change]:
    """The change of each weight that adapters are merged into."""
    if not model.adapters:
        return
    merged = optimize_graph(widened(model.graph).graph, "merge").graph
    _, prelude, _ = hoist(merged, Facts("all"))
    for value in () if prelude is None else prelude.outputs.values():
        leaves = _labels(value)
        own = tuple(name for name in leaves if name in model.adapters)
        base = _base(value, model.adapters)
        if own and base is not None:
            yield _measured(value, base, own, model.state)


def _measured(value: Value, base: Value, adapters: tuple[str, ...], state: Mapping[str, Array]) -> Change:
    """The change of ``base`` to ``value``: what is added to it where that is a sum, else the difference."""
    terms = list(_terms(value))
    is_sum = base in terms
    if is_sum:
        terms.remove(base)
    change = reduce(add, terms) if is_sum else value - base
    weight = _labels(base)[0]
    found = evaluate(
        Graph((), {"change": change, "base": base}), {}, widened_state({name: state[name] for name in _labels(value)})
    )
    delta, norm = as_matrix(found["change"]), float(np.linalg.norm(found["base"]))
    sigma = singular_values(delta) if np.isfinite(delta).all() else np.zeros(0)
    largest, size = float(sigma.max(initial=0.0)), float(np.linalg.norm(delta))
    limit = tolerance(delta.shape, largest) if is_sum else tolerance(delta.shape, norm, state[weight].dtype)
    return Change(
        weight=weight,
        adapters=adapters,
        shape=found["change"].shape,
        effective_rank=rank_of(sigma, limit),
        entropy_rank=entropy_rank(sigma),
        norm=size,
        relative=size / norm if norm else 0.0,
        largest=largest,
    )


def _labels(value: Value) -> list[str]:
    """The names of the parameters that ``value`` follows from."""
    return [leaf.op.label for leaf in topological([value]) if isinstance(leaf.op, Parameter)]


def _terms(value: Value) -> Iterator[Value]:
    """What ``value`` is the sum of."""
    pending = [value]
    while pending:
        term = pending.pop()
        if isinstance(term.op, Add):
            pending.extend(reversed(term.operands))
        else:
            yield term


def _base(value: Value, adapters: Collection[str]) -> Value | None:
    """The nearest thing that ``value`` follows from which has its type and no adapter in it: a weight as it is used."""
    free = _free(value, adapters)
    pending, seen = deque([value]), {value}
    while pending:
        nearest = pending.popleft()
        if nearest in free and nearest.result_type == value.result_type:
            return nearest
        for operand in nearest.operands:
            if operand not in seen:
                seen.add(operand)
                pending.append(operand)
    return None


def _free(value: Value, adapters: Collection[str]) -> set[Value]:
    """What follows from parameters, none of them an adapter's."""
    free: set[Value] = set()
    bound: set[Value] = set()
    for item in topological([value]):
        is_own = isinstance(item.op, Parameter) and item.op.label in adapters
        if is_own or _any_of(item.operands, bound):
            bound.add(item)
        elif isinstance(item.op, Parameter) or _any_of(item.operands, free):
            free.add(item)
    return free


def _any_of(values: Iterable[Value], chosen: Collection[Value]) -> bool:
    return any(value in chosen for value in values)
