"""Which module each op and each parameter of a graph belongs to, and what the modules cost."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from math import prod

from lora_graph.inspect.cost import Cost, Costs, total
from lora_graph.inspect.inspected import Inspected
from lora_graph.ir import dims
from lora_graph.ir.graph import Graph
from lora_graph.ir.leaves import Project
from lora_graph.ir.opaque import Opaque
from lora_graph.ir.value import Value

ROWS = 40
"""Modules are told apart as far as there are no more of them than this."""


@dataclass(frozen=True)
class Parameters:
    """How many numbers there are: in all, of those that train, and of those that belong to adapters."""

    total: int = 0
    trainable: int = 0
    adapter: int = 0


@dataclass(frozen=True)
class Module:
    """One module with all that is below it: ops by name, parameters and costs. The name of the model itself is ""."""

    name: str
    ops: Mapping[str, int] = field(default_factory=dict)
    parameters: Parameters = field(default_factory=Parameters)
    cost: Cost = field(default_factory=Cost)


def op_label(value: Value) -> str:
    """The name of an op as ONNX has it."""
    return value.op.label if isinstance(value.op, Opaque) else value.op.name


def histogram(values: Iterable[Value]) -> dict[str, int]:
    """How many of ``values`` are of each op, most frequent first; leaves, and results of ops that have several, not."""
    counts: dict[str, int] = {}
    for value in values:
        if value.operands and not isinstance(value.op, Project):
            counts[op_label(value)] = counts.get(op_label(value), 0) + 1
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def counted(model: Inspected, names: Iterable[str]) -> Parameters:
    """The numbers in the parameters ``names`` of a model."""
    chosen = list(names)
    sizes = {name: prod(dims.sizes(model.graph.parameters[name].shape, model.binding)) for name in chosen}
    return Parameters(
        total=sum(sizes.values()),
        trainable=sum(size for name, size in sizes.items() if name in model.graph.trainable),
        adapter=sum(size for name, size in sizes.items() if name in model.adapters),
    )


def scope_of(graph: Graph, value: Value) -> str:
    """The path of the module that ``value`` belongs to, "" where nothing tells it."""
    note = graph.notes.get(value)
    return note.scope if note else ""


def owners(graph: Graph) -> dict[str, str]:
    """The module of each parameter: the one that its name begins with, else that of the first op that uses it."""
    scopes = {scope_of(graph, value) for value in graph.values if value.operands}
    known = {path[:end] for path in scopes for end in _ends(path)}
    found = {name: name.rpartition(".")[0] for name in graph.parameters}
    leaves = {leaf: name for name, leaf in graph.parameters.items() if not found[name] or found[name] not in known}
    for value in graph.values:
        for operand in value.operands:
            if operand in leaves:
                found[leaves.pop(operand)] = scope_of(graph, value)
    return found


def _ends(path: str) -> list[int]:
    """Where the names of the modules around ``path``, and its own, end in it."""
    return [i for i, letter in enumerate(path) if letter == "."] + [len(path)]


def outer(path: str, depth: int) -> str:
    """The first ``depth`` names of a path."""
    return ".".join(path.split(".")[:depth])


def readable_depth(paths: Iterable[str]) -> int:
    """The largest depth at which no more than ROWS modules are told apart; at least 1."""
    known = set(paths)
    deepest = max((path.count(".") + 1 for path in known), default=1)
    for depth in range(2, deepest + 1):
        if len({outer(path, depth) for path in known}) > ROWS:
            return depth - 1
    return deepest


def modules(model: Inspected, costs: Costs, depth: int | None = None) -> list[Module]:
    """The modules of ``model`` with paths of up to ``depth`` names, the last of which stand for all below them.

    They come in the order in which they run, but those of one module together. Without ``depth`` it is the
    :func:`readable_depth`.
    """
    scopes, homes = {value: scope_of(model.graph, value) for value in costs.of}, owners(model.graph)
    cut = readable_depth((*scopes.values(), *homes.values())) if depth is None else depth
    values: dict[str, list[Value]] = {}
    parameters: dict[str, list[str]] = {}
    for value, path in scopes.items():
        values.setdefault(outer(path, cut), []).append(value)
    for name, path in homes.items():
        parameters.setdefault(outer(path, cut), []).append(name)
    return [
        Module(
            path,
            histogram(values.get(path, ())),
            counted(model, parameters.get(path, ())),
            total(costs.of[value] for value in values.get(path, ())),
        )
        for path in _together([*values, *parameters])
    ]


def _together(paths: Collection[str]) -> list[str]:
    """``paths`` in order of their appearance, but each behind the one that it begins with, beside its siblings."""
    first: dict[str, int] = {}
    for path in paths:
        for end in _ends(path):
            first.setdefault(path[:end], len(first))
    return sorted(set(paths), key=lambda path: [first[path[:end]] for end in _ends(path)])
