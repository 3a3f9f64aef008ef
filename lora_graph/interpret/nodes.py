"""A graph for one binding of its named dimensions: its Values numbered, with int shapes and the memory they live in."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from operator import itemgetter, methodcaller
from typing import Any

import numpy as np

from lora_graph.interpret.memory import room
from lora_graph.interpret.reference import bound
from lora_graph.ir.dims import names
from lora_graph.ir.graph import Graph
from lora_graph.ir.leaves import Input, Parameter, Project
from lora_graph.ir.op import Op
from lora_graph.ir.opaque import Opaque
from lora_graph.ir.types import Array, TensorType, TupleType
from lora_graph.ir.value import Value, topological
from lora_graph.ops.after import After
from lora_graph.ops.base import Elementwise
from lora_graph.ops.scan import Scan
from lora_graph.ops.shape import Flatten, Reshape, Transpose
from lora_graph.ops.slice import Slice


class Kind(Enum):
    """Where the array of a node comes from."""

    GIVEN = auto()  # the caller: an input, or a parameter that is not fixed
    HELD = auto()  # computed before the run from constants and fixed parameters
    PLANNED = auto()  # its op writes it to memory that the plan chose
    FRESH = auto()  # its op returns it
    VIEW = auto()  # another view of its first operand's memory, or one of its results


@dataclass(slots=True)
class Node:
    """One Value: ``operands`` and ``root``, the node whose memory it is a view of, are positions in the list."""

    value: Value
    op: Op
    kind: Kind
    type: TensorType | TupleType
    operands: tuple[int, ...]
    root: int
    contiguous: bool
    """Whether the array is known to lie in row-major order without gaps."""
    waits: tuple[int, ...] = ()
    """What has to be computed before, although it is not read."""

    @property
    def tensor(self) -> TensorType:
        assert isinstance(self.type, TensorType)
        return self.type

    @property
    def shape(self) -> tuple[int, ...]:
        return self.tensor.shape  # type: ignore[return-value]

    @property
    def size(self) -> Any:
        """Elements of the array; None for several arrays."""
        return self.type.size if isinstance(self.type, TensorType) else None

    @property
    def nbytes(self) -> int:
        """Bytes of memory for the array, or for all of several arrays."""
        return room(self.type)

    @property
    def grain(self) -> tuple[int, ...] | None:
        """The shape that neighbours have to share to run together in tiles; None for an op that is not tiled."""
        return self.shape if self.kind is Kind.PLANNED and self.op.elementwise else None


@dataclass(frozen=True)
class NodeList:
    """The nodes that some output needs, operands first, and the outputs' positions by name."""

    nodes: list[Node]
    outputs: dict[str, int]


def number(graph: Graph, held: Collection[Value], sizes: Mapping[str, int]) -> NodeList:
    """``graph`` with the sizes put in; what lies behind ``held`` is left out, and so is dead code.

    An After is no node: whoever reads it reads its operand and waits for its mark. Outputs that need little come first
    in the order, so that the update of a layer's parameters directly follows their gradient rather than waiting for the
    end of the backward pass.
    """
    order = _needed(topological(sorted(graph.outputs.values(), key=_depths(graph).__getitem__)), graph, held)
    at: dict[Value, int] = {}
    nodes: list[Node] = []
    marks: dict[Value, tuple[int, ...]] = {}
    for value in order:
        read = () if value in held else value.operands
        waits = tuple(mark for operand in read for mark in marks.get(operand, ()))
        if isinstance(value.op, After) and read:
            at[value], marks[value] = at[read[0]], (*waits, at[read[1]])
            continue
        at[value] = len(nodes)
        node = _node(value, tuple(at[operand] for operand in read), nodes, value in held, sizes)
        node.waits = waits
        nodes.append(node)
    return NodeList(nodes, {name: at[value] for name, value in graph.outputs.items()})


def kernel(node: Node) -> Callable[..., Any]:
    """The function that computes the node's array from its operands' arrays; it takes ``out=`` where PLANNED."""
    if isinstance(node.op, Reshape | Flatten) and node.kind is Kind.PLANNED:
        return copy_rows
    if isinstance(node.op, Elementwise) and type(node.op).evaluate is Elementwise.evaluate:
        return type(node.op).ufunc  # type: ignore[no-any-return]
    if isinstance(node.op, Slice) and node.op.counts_forwards:
        return itemgetter(node.op.region(node.tensor.rank))
    if isinstance(node.op, Transpose):
        return methodcaller("transpose", node.op.perm)
    if isinstance(node.op, Project):
        return itemgetter(node.op.index)
    if isinstance(node.op, Scan):
        from lora_graph.interpret.loop import Loop

        return Loop(node.op)
    return node.op.evaluate


def copy_rows(x: Array, out: Array) -> None:
    """The elements of ``x`` in row-major order, for a reshape of memory that is in another order."""
    np.copyto(out.reshape(x.shape), x)


def _depths(graph: Graph) -> dict[Value, int]:
    depth: dict[Value, int] = {}
    for value in graph.values:
        depth[value] = 1 + max((depth[operand] for operand in value.operands), default=0)
    return depth


def _needed(order: list[Value], graph: Graph, held: Collection[Value]) -> list[Value]:
    needed = set(graph.outputs.values())
    for value in reversed(order):
        if value in needed and value not in held:
            needed.update(value.operands)
    return [value for value in order if value in needed]


def _node(value: Value, operands: tuple[int, ...], nodes: list[Node], is_held: bool, sizes: Mapping[str, int]) -> Node:
    _require_known(value, sizes)
    op, type_ = bound(value.op, sizes), value.result_type
    if isinstance(type_, TensorType):
        type_ = type_.bind(sizes)
        if min(type_.shape, default=0) < 0:  # type: ignore[type-var, operator]
            op.infer(*[nodes[i].type for i in operands])  # says what does not fit
            raise ValueError(f"{op.name} would give {type_}: an input is too small")
    else:
        type_ = TupleType(tuple(item.bind(sizes) for item in type_.items))
    here = len(nodes)
    if is_held:
        return Node(value, op, Kind.HELD, type_, operands, here, False)
    if isinstance(op, Input | Parameter):
        return Node(value, op, Kind.GIVEN, type_, operands, here, False)
    if isinstance(op, Project):
        root = nodes[operands[0]].root
        return Node(value, op, Kind.VIEW, type_, operands, root, nodes[root].kind is Kind.PLANNED)
    if op.view and isinstance(type_, TensorType):
        return _view(value, op, type_, operands, nodes)
    kind = Kind.PLANNED if op.writes_out else Kind.FRESH
    return Node(value, op, kind, type_, operands, here, kind is Kind.PLANNED)


def _require_known(value: Value, sizes: Mapping[str, int]) -> None:
    """Raise ValueError for an Opaque op that gives a size which no input says."""
    if isinstance(value.op, Opaque):
        for name in (name for kind in value.op.results for size in kind.shape for name in names(size)):
            if name not in sizes:
                raise ValueError(f"the size {name} of a result of {value.op.label} is not known before it runs")


def _view(value: Value, op: Op, type_: TensorType, operands: tuple[int, ...], nodes: list[Node]) -> Node:
    source = nodes[operands[0]]
    is_planned = nodes[source.root].kind is Kind.PLANNED
    if isinstance(op, Reshape | Flatten) and is_planned and not source.contiguous:
        return Node(value, op, Kind.PLANNED, type_, operands, len(nodes), True)
    contiguous = source.contiguous and (isinstance(op, Reshape | Flatten) or _keeps_order(op, source.tensor))
    return Node(value, op, Kind.VIEW, type_, operands, source.root, contiguous)


def _keeps_order(op: Op, source: TensorType) -> bool:
    """Whether a view of row-major memory is row-major itself, asked of NumPy on memory that is never touched."""
    scratch = np.empty(source.shape, source.dtype)  # type: ignore[type-var]
    return bool(op.evaluate(scratch).flags.c_contiguous)
