"""Scenes: what there is to be drawn of a graph, as plain data, over all stages it goes through."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from lora_graph.garbage import no_collections
from lora_graph.inspect.cycles import on_cycles
from lora_graph.inspect.kin import adapter_values
from lora_graph.inspect.stages import align, replaced
from lora_graph.ir.graph import Graph
from lora_graph.ir.leaves import Absent, Constant, Dimension, Input, Parameter
from lora_graph.ir.op import Op
from lora_graph.ir.types import Type
from lora_graph.ir.value import Value
from lora_graph.rewrite.record import Report

KINDS = ("op", "input", "parameter", "constant", "output")
MODEL = "model"
"""The name of the stage that is the model itself, before any pass."""
LONGEST_TEXT = 2000
"""Characters of an attribute that are kept."""


@dataclass(frozen=True, slots=True)
class Node:
    """One box: a Value, the use of a constant by one op, or an output. ``module`` is a path, "a.b.c"."""

    id: int
    op: str
    label: str
    kind: str
    type: str
    module: str = ""
    attributes: Mapping[str, str] = field(default_factory=dict)
    details: Mapping[str, str] = field(default_factory=dict)
    sources: tuple[int, ...] = ()
    """The nodes it was made from by a pass."""
    is_adapter: bool = False


class Edge(NamedTuple):
    """Operand number ``operand`` of the node ``target`` is the node ``source``."""

    source: int
    target: int
    operand: int


@dataclass(frozen=True)
class Stage:
    """The nodes and the edges, by number, that are there after a pass."""

    name: str
    nodes: frozenset[int]
    edges: frozenset[int]


@dataclass(frozen=True)
class Scene:
    """Nodes and edges of all stages; those of one stage never form a cycle, nor do those of all together.

    The id of a node is its place in ``nodes``. ``metrics`` are numbers by name and node, ``marks`` say how a node
    takes part in a difference. Where two graphs are compared, they are two stages.
    """

    name: str
    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]
    stages: tuple[Stage, ...]
    metrics: Mapping[str, Mapping[int, float]] = field(default_factory=dict)
    marks: Mapping[int, str] = field(default_factory=dict)

    def only(self, stage: int) -> Scene:
        """The scene with nothing but one of its stages; nodes get new numbers, and tell no sources."""
        if len(self.stages) == 1:
            return self
        kept = self.stages[stage]
        new = {old: number for number, old in enumerate(sorted(kept.nodes))}
        edges = tuple(Edge(new[s], new[t], operand) for s, t, operand in (self.edges[e] for e in sorted(kept.edges)))
        chosen = [replace(self.nodes[old], id=number, sources=()) for old, number in new.items()]
        nodes = with_modules_of_leaves(chosen, edges)
        alone = Stage(kept.name, frozenset(new.values()), frozenset(range(len(edges))))
        metrics = {name: {new[o]: number for o, number in of.items() if o in new} for name, of in self.metrics.items()}
        return Scene(self.name, nodes, edges, (alone,), metrics, {new[o]: m for o, m in self.marks.items() if o in new})


def scene_of(
    graph: Graph,
    *,
    report: Report | None = None,
    metrics: Mapping[str, Mapping[Value, float]] | None = None,
    details: Mapping[Value, Mapping[str, str]] | None = None,
    adapters: Collection[str] = (),
) -> Scene:
    """``graph`` as a scene, with a stage for each pass of ``report``, which starts from it.

    ``metrics`` and ``details`` tell of Values of any stage; ``adapters`` are the parameters that belong to adapters.
    A Value that a pass only builds again on other operands stays the same node.
    """
    with no_collections():
        making = SceneMaker(graph.name, adapters, details or {})
        making.add(MODEL, graph)
        for record in report.passes if report else ():
            making.follow(record.name, record.after)
        return making.scene(metrics or {})


class SceneMaker:
    """Collects the nodes of graphs, stage by stage."""

    def __init__(self, name: str, adapters: Collection[str], details: Mapping[Value, Mapping[str, str]]) -> None:
        self._name, self._adapters, self._details = name, frozenset(adapters), details
        self._nodes: list[Node] = []
        self._ids: dict[Value, int] = {}
        self._uses: dict[tuple[object, ...], int] = {}
        self._edges: dict[Edge, int] = {}
        self._stages: list[Stage] = []
        self._last: Graph | None = None

    @property
    def ids(self) -> Mapping[Value, int]:
        """The node that each Value is."""
        return self._ids

    def follow(self, name: str, graph: Graph) -> None:
        """A stage whose Values continue those of the stage before wherever they can."""
        last = self._last
        assert last is not None
        if last is graph or last == graph:
            self._stages.append(replace(self._stages[-1], name=name))
            return
        continued = align(last, graph)
        self.add(name, graph, continued)
        sources = replaced(last, graph, continued)
        earlier = frozenset[int]().union(*(stage.nodes for stage in self._stages[:-1]))
        for value, olds in sources.items():
            node = self._ids[value]
            if node in earlier:  # it is what it was, whatever became of it in between
                continue
            found = tuple(dict.fromkeys(self._ids[old] for old in olds if old in self._ids))
            if found and not self._nodes[node].sources:
                self._nodes[node] = replace(self._nodes[node], sources=found)

    def add(self, name: str, graph: Graph, continued: Mapping[Value, Value] | None = None) -> None:
        """A stage; a Value is the node of the Value that it continues, unless edges would then run in a circle."""
        continued = dict(continued or {})
        known, edges = dict(self._ids), dict(self._edges)
        made, uses, stages = list(self._nodes), dict(self._uses), list(self._stages)
        while True:
            alive = self._add_stage(name, graph, continued)
            looped = on_cycles(len(self._nodes), [edge[:2] for edge in self._edges]) if continued else set()
            if not looped:
                break
            dropped = [value for value in continued if self._ids.get(value) in looped]
            for value in dropped:
                del continued[value]
            if not dropped:
                raise ValueError(f"stage {name!r}: the graphs cannot be drawn as one, their edges run in a circle")
            self._ids, self._edges = dict(known), dict(edges)
            self._nodes, self._uses, self._stages = list(made), dict(uses), list(stages)
        self._stages.append(alive)
        self._last = graph

    def _add_stage(self, name: str, graph: Graph, continued: Mapping[Value, Value]) -> Stage:
        ours = adapter_values(graph, self._adapters) if self._adapters else frozenset()
        taken = {self._ids[value] for value in graph.values if value in self._ids}
        nodes: set[int] = set()
        edges: list[int] = []
        for value in graph.values:
            if isinstance(value.op, Constant | Dimension | Absent):
                continue
            node = self._ids.get(value)
            if node is None:
                node = self._ids.get(continued[value]) if value in continued else None
                if node is None or node in taken:
                    node = self._new(graph, value, value in ours)
                else:
                    self._tell(node, value)
                taken.add(node)
                self._ids[value] = node
            nodes.add(node)
            for index, operand in enumerate(value.operands):
                self._link(operand, node, index, nodes, edges)
        for output, value in graph.outputs.items():
            node = self._use(("output", output), "Output", output, "output", _written(value.result_type))
            nodes.add(node)
            self._link(value, node, 0, nodes, edges)
        return Stage(name, frozenset(nodes), frozenset(edges))

    def _new(self, graph: Graph, value: Value, is_adapter: bool) -> int:
        node, note, op = len(self._nodes), graph.notes.get(value), value.op
        leaf = op if isinstance(op, Input | Parameter) else None
        kind = "op" if leaf is None else "input" if isinstance(leaf, Input) else "parameter"
        attributes = {} if leaf else _attributes(op)
        details = dict(self._details.get(value, {}))
        if isinstance(op, Parameter):
            details.setdefault("trains", "yes" if op.trainable else "no")
        if note and note.rules:
            details.setdefault("rules", ", ".join(note.rules))
        label = leaf.label if leaf else note.name if note else ""
        module = note.scope if note and not leaf else ""
        made = Node(
            node, op.name, label, kind, _written(value.result_type), module, attributes, details, (), is_adapter
        )
        self._nodes.append(made)
        return node

    def _tell(self, node: int, value: Value) -> None:
        """Add what is known of ``value`` alone to what is told of the node that it continues."""
        old, more = self._nodes[node], self._details.get(value, {})
        if more.keys() - old.details.keys():
            self._nodes[node] = replace(old, details={**more, **old.details})

    def _link(self, operand: Value, target: int, index: int, nodes: set[int], edges: list[int]) -> None:
        op = operand.op
        if isinstance(op, Absent):
            return
        if isinstance(op, Constant | Dimension):
            label = constant_text(op)
            source = self._use((operand, target, index), op.name, label, "constant", _written(operand.result_type))
            nodes.add(source)
        else:
            source = self._ids[operand]
        edge = Edge(source, target, index)
        edges.append(self._edges.setdefault(edge, len(self._edges)))

    def _use(self, key: tuple[object, ...], op: str, label: str, kind: str, type_: str) -> int:
        node = self._uses.setdefault(key, len(self._nodes))
        if node == len(self._nodes):
            self._nodes.append(Node(node, op, label, kind, type_))
        return node

    def scene(self, metrics: Mapping[str, Mapping[Value, float]], marks: Mapping[Value, str] | None = None) -> Scene:
        """Everything that was collected."""
        numbers = {name: self._numbers(of.items()) for name, of in metrics.items()}
        said = {self._ids[value]: mark for value, mark in (marks or {}).items() if value in self._ids}
        nodes = with_modules_of_leaves(self._nodes, list(self._edges))
        return Scene(self._name, nodes, tuple(self._edges), tuple(self._stages), numbers, said)

    def _numbers(self, items: Iterable[tuple[Value, float]]) -> dict[int, float]:
        return {self._ids[value]: float(number) for value, number in items if value in self._ids}


def with_modules_of_leaves(nodes: Sequence[Node], edges: Sequence[Edge]) -> tuple[Node, ...]:
    """A parameter or constant belongs to the innermost module that holds all its users."""
    found: dict[int, list[str]] = {}
    for edge in edges:
        if nodes[edge.source].kind in ("parameter", "constant"):
            path = nodes[edge.target].module.split(".")
            before = found.get(edge.source)
            found[edge.source] = path if before is None else _shared(before, path)
    return tuple(
        replace(node, module=".".join(found[node.id])) if node.id in found and found[node.id] != [""] else node
        for node in nodes
    )


def _shared(one: list[str], other: list[str]) -> list[str]:
    length = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    return one[:length]


@lru_cache(maxsize=4096)
def _written(type_: Type) -> str:
    return str(type_)


@lru_cache(maxsize=4096)
def _attributes(op: Op) -> Mapping[str, str]:
    return {name: attribute_text(attribute) for name, attribute in op.attributes().items()}


def attribute_text(attribute: object) -> str:
    """An attribute of an op as a reader would write it, cut where it is very long."""
    if isinstance(attribute, Graph):
        text = str(attribute)
    elif isinstance(attribute, np.ndarray):
        text = np.array2string(attribute, threshold=20, separator=", ")
    elif isinstance(attribute, np.dtype):
        text = attribute.name
    elif isinstance(attribute, tuple):
        text = f"({', '.join(map(attribute_text, attribute))})"
    elif isinstance(attribute, Op):
        text = attribute.name
    else:
        text = str(attribute)
    return text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]}…"


def constant_text(op: Constant | Dimension) -> str:
    """A constant as a number, or as an array that is cut where it is long."""
    if isinstance(op, Dimension):
        return str(op.size)
    if op.value.ndim == 0:
        return str(op.value[()])
    return np.array2string(op.value, threshold=8, edgeitems=3, separator=", ").replace("\n", "")
