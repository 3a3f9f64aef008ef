"""One of the two graphs of a diff: who uses what, types in common names of dimensions, and fingerprints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from hashlib import blake2b

import numpy as np

from lora_graph.ir.dims import Dim, Shape
from lora_graph.ir.graph import Graph, substitute_dims
from lora_graph.ir.leaves import Absent, Constant, Dimension, Input, Parameter
from lora_graph.ir.op import Op
from lora_graph.ir.opaque import Opaque
from lora_graph.ir.types import Array, TensorType, TupleType, Type
from lora_graph.ir.value import Value
from lora_graph.rewrite.rule import has_symbolic_size

SAMPLED = 1 << 16
"""Bytes of an array that its digest is made of; weights that are aligned are compared in full later."""
BLOCKS = 64
"""How many pieces they are taken in, from all over the array."""

Fixed = Constant | Dimension | Absent
"""Leaves that are part of the program: they have no identity beyond what they are."""


class Numbers:
    """A number for each different key, the same one for both sides."""

    def __init__(self) -> None:
        self._known: dict[object, int] = {}

    def of(self, key: object) -> int:
        return self._known.setdefault(key, len(self._known))


@dataclass(eq=False)
class Side:
    """``graph`` with the arrays of ``state``; what has none there is told apart by its name.

    ``adapters`` are the parameters that are known to be of adapters.
    ``sizes`` gives the dimensions of this side names that both have, ``ports`` numbers to the inputs.
    """

    graph: Graph
    state: Mapping[str, Array]
    numbers: Numbers
    adapters: frozenset[str] = frozenset()
    sizes: dict[str, Dim] = field(default_factory=dict)
    ports: dict[Value, object] = field(default_factory=dict)

    @cached_property
    def order(self) -> dict[Value, int]:
        return {value: number for number, value in enumerate(self.graph.values)}

    @cached_property
    def users(self) -> dict[Value, list[tuple[Value, int]]]:
        """For each Value the ops that use it, with the operand that it is; -1 where their order does not matter."""
        found: dict[Value, list[tuple[Value, int]]] = {value: [] for value in self.graph.values}
        for value in self.graph.values:
            is_ordered = not is_commutative(value)
            for position, operand in enumerate(value.operands):
                found[operand].append((value, position if is_ordered else -1))
        return found

    @cached_property
    def outputs(self) -> dict[Value, list[str]]:
        """The names under which a Value is an output."""
        found: dict[Value, list[str]] = {}
        for name, value in self.graph.outputs.items():
            found.setdefault(value, []).append(name)
        return found

    @cached_property
    def ops(self) -> dict[Value, Op]:
        """The op of each Value, in common names of dimensions; the token of one that draws numbers left out."""
        return {value: self._op(value.op) for value in self.graph.values}

    def _op(self, op: Op) -> Op:
        if isinstance(op, Opaque) and op.token:
            op = replace(op, token="")
        return substitute_dims(op, self.sizes) if self.sizes else op

    @cached_property
    def types(self) -> dict[Value, Type]:
        """The type of each Value, in common names of dimensions."""
        return {value: self._type(value.result_type) for value in self.graph.values}

    def _type(self, kind: Type) -> Type:
        if not self.sizes:
            return kind
        if isinstance(kind, TupleType):
            return TupleType(tuple(item.substitute(self.sizes) for item in kind.items))
        return kind if kind.is_static else kind.substitute(self.sizes)

    @cached_property
    def type_numbers(self) -> dict[Value, int]:
        """A number for each type, the same on both sides: what comparing types comes to, many times over."""
        return {value: self.numbers.of(kind) for value, kind in self.types.items()}

    @cached_property
    def kinds(self) -> dict[Value, str]:
        """What each Value has in common with those that it may be a changed form of."""
        return {value: kind_of(value) for value in self.graph.values}

    @cached_property
    def added(self) -> set[Value]:
        """The parameters of adapters, and the ops that use one, or what is computed of nothing else."""
        pure = {leaf for name, leaf in self.graph.parameters.items() if name in self.adapters}
        found = set(pure)
        for value in self.graph.values if pure else ():
            if not pure.isdisjoint(value.operands):
                found.add(value)
                if all(operand in pure or is_fixed(operand) for operand in value.operands):
                    pure.add(value)
        return found

    def shape(self, value: Value) -> Shape:
        return tensor_type(self.types[value]).shape

    @cached_property
    def contents(self) -> dict[Value, object]:
        """What tells the array of a Parameter from others; the name where there is no array."""
        return {leaf: self._content(name) for name, leaf in self.graph.parameters.items()}

    def _content(self, name: str) -> object:
        return _digest(np.asarray(self.state[name])) if name in self.state else name

    @cached_property
    def what(self) -> dict[Value, int]:
        """What each Value computes: equal for two Values that are the same function of inputs and of weights."""
        found: dict[Value, int] = {}
        for value in self.graph.values:
            operands = [found[operand] for operand in value.operands]
            if is_commutative(value):
                operands.sort()
            key: object = (self.ops[value], *operands)
            if isinstance(value.op, Input):
                key = ("input", self.ports.get(value, (id(self), value)))
            elif isinstance(value.op, Parameter):
                key = ("parameter", self.types[value], self.contents[value])
            found[value] = self.numbers.of(key)
        return found

    @cached_property
    def use(self) -> dict[Value, int]:
        """What becomes of each Value: a fingerprint of all ops up to the outputs, whatever weights and names."""
        found: dict[Value, int] = {}
        for value in reversed(self.graph.values):
            uses = sorted((found[user], position) for user, position in self.users[value])
            kind = value.op.name if is_leaf(value) or has_symbolic_size(value.op) else self._op(value.op)
            found[value] = self.numbers.of(("use", kind, *uses, len(self.outputs.get(value, ()))))
        return found

    @cached_property
    def name_parts(self) -> dict[Value, list[tuple[str, ...]]]:
        """The name of each Value, and those of the parameters that it uses, taken apart at the dots."""
        parts = {value: tuple(filter(None, self.name(value).split("."))) for value in self.graph.values}
        return {v: [parts[v], *(parts[x] for x in v.operands if isinstance(x.op, Parameter))] for v in parts}

    def name(self, value: Value) -> str:
        """The name that a leaf has, or that is noted for an op."""
        if isinstance(value.op, Input | Parameter):
            return value.op.label
        note = self.graph.notes.get(value)
        return note.name if note else ""

    def scope(self, value: Value) -> str:
        note = self.graph.notes.get(value)
        return note.scope if note else ""


def is_leaf(value: Value) -> bool:
    return not value.operands


def is_fixed(value: Value) -> bool:
    return isinstance(value.op, Fixed)


def is_commutative(value: Value) -> bool:
    return value.op.commutative and len(value.operands) == 2


def kind_of(value: Value) -> str:
    """What two Values have in common for one to be a changed form of the other."""
    return value.op.label if isinstance(value.op, Opaque) else value.op.name


def tensor_type(kind: Type) -> TensorType:
    assert isinstance(kind, TensorType)
    return kind


def _digest(array: Array) -> object:
    """The bytes of an array, or of pieces from all over a large one."""
    flat = array.reshape(-1)
    if array.nbytes > SAMPLED:
        piece = max(1, SAMPLED // BLOCKS // array.itemsize)
        starts = np.linspace(0, flat.size - piece, BLOCKS).astype(np.int64)
        flat = np.concatenate([flat[start : start + piece] for start in starts])
    is_telling = flat.size > 0 and bool((flat != flat[0]).any())
    return Content(blake2b(np.ascontiguousarray(flat).view(np.uint8).data, digest_size=16).digest(), is_telling)


@dataclass(frozen=True)
class Content:
    """A digest of an array, and whether its numbers are not all the same, as those of a new bias are."""

    digest: bytes
    is_telling: bool
