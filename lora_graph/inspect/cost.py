"""What a graph costs to run, from types alone: operations, bytes moved, and the memory of what is computed.

Operations are those of :meth:`Op.flops`: 2 m n k for a matrix product, 1 an element for any element-wise function.
Bytes are those of a machine that keeps nothing between two ops: each reads its operands once (a lookup as much as it
finds) and writes its result; views and leaves move nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod

from lora_graph.ir import dims
from lora_graph.ir.graph import Graph
from lora_graph.ir.leaves import Absent, Project
from lora_graph.ir.opaque import Opaque
from lora_graph.ir.types import TensorType, TupleType, Type, show
from lora_graph.ir.value import Value
from lora_graph.ops.gather import Gather, GatherElements, GatherND
from lora_graph.ops.linalg import EyeLike
from lora_graph.ops.prefix import SliceTo

LOOKUPS = (Gather, GatherElements, GatherND, SliceTo)
"""Ops that read only as much of their first operand as they give."""


@dataclass(frozen=True)
class Cost:
    """Arithmetic operations, and bytes read and written."""

    flops: int = 0
    read: int = 0
    written: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.flops + other.flops, self.read + other.read, self.written + other.written)

    @property
    def bytes(self) -> int:
        return self.read + self.written

    @property
    def intensity(self) -> float:
        """Operations a byte; 0 where nothing moves."""
        return self.flops / self.bytes if self.bytes else 0.0


def total(costs: Iterable[Cost]) -> Cost:
    """The sum of ``costs``."""
    found = list(costs)
    return Cost(*(sum(getattr(cost, name) for cost in found) for name in ("flops", "read", "written")))


@dataclass(frozen=True)
class Costs:
    """What each Value of ``graph`` costs where named dimensions have the sizes of ``binding``."""

    graph: Graph
    binding: Mapping[str, int]

    @cached_property
    def of(self) -> dict[Value, Cost]:
        """The cost of each Value that is computed, views with none included."""
        return {value: self.cost(value) for value in self.graph.values if value.operands}

    @cached_property
    def total(self) -> Cost:
        return total(self.of.values())

    @cached_property
    def unknown(self) -> dict[str, int]:
        """How many Values there are of each op whose operations are not known, and so not counted."""
        counts: dict[str, int] = {}
        for value in self.graph.values:
            if isinstance(value.op, Opaque):
                counts[value.op.label] = counts.get(value.op.label, 0) + 1
        return counts

    @cached_property
    def peak(self) -> int:
        """The most bytes of results that are alive at once when the ops run in the order of the graph.

        An output lives to the end, any other result until its last user has run, where that may be written in its
        place; views share the memory of what they show. Inputs and parameters are the caller's.
        """
        last = self._last_uses()
        dying: dict[int, list[Value]] = {}
        for value, position in last.items():
            dying.setdefault(position, []).append(value)
        alive = most = 0
        for position, value in enumerate(self.graph.values):
            if self._owns(value):
                candidates = value.operands[: value.op.in_place]
                in_place = any(x.result_type == value.result_type and last.get(x) == position for x in candidates)
                alive += self.nbytes(value.result_type)
                most = max(most, alive - in_place * self.nbytes(value.result_type))
            alive -= sum(self.nbytes(done.result_type) for done in dying.get(position, ()))
        return most

    def _last_uses(self) -> dict[Value, int]:
        """For each result with memory of its own the position of the last Value that reads it, or a view of it."""
        last: dict[Value, int] = {}
        for position, value in enumerate(self.graph.values):
            last[value] = position
            for operand in value.operands:
                last[self._root(operand)] = position
        last.update((self._root(value), len(self.graph.values)) for value in self.graph.outputs.values())
        return {value: position for value, position in last.items() if self._owns(value)}

    def nbytes(self, kind: Type) -> int:
        """Bytes of an array of this type, or of several; ValueError where the sizes of inputs are too small for it."""
        known = self._nbytes.get(kind)
        if known is None:
            items = kind.items if isinstance(kind, TupleType) else (kind,)
            known = self._nbytes[kind] = sum(self._nbytes_of(item) for item in items)
        return known

    def _nbytes_of(self, kind: TensorType) -> int:
        sizes = dims.sizes(kind.shape, self.binding)
        if min(sizes, default=0) < 0:
            at = ", ".join(f"{name} = {size}" for name, size in self.binding.items())
            raise ValueError(f"{kind} would be {show(sizes)} at {at}: give larger sizes")
        return prod(sizes) * kind.dtype.itemsize

    @cached_property
    def _nbytes(self) -> dict[Type, int]:
        return {}

    @cached_property
    def _flops(self) -> dict[tuple[object, ...], int]:
        """By op and types: many nodes of a large graph are alike."""
        return {}

    def _operations(self, value: Value) -> int:
        key = (value.op, *[operand.result_type for operand in value.operands])
        known = self._flops.get(key)
        if known is None:
            known = self._flops[key] = dims.evaluate(value.flops, self.binding)
        return known

    def cost(self, value: Value) -> Cost:
        """What ``value`` costs, which may be one that a pass made of those of the graph."""
        if not self._owns(value):
            return Cost()
        written = self.nbytes(value.result_type)
        read = [self._readable(operand) for operand in value.operands]
        if isinstance(value.op, LOOKUPS):
            read[0] = min(read[0], written)
        if isinstance(value.op, EyeLike):  # it wants to know the shape
            read = []
        return Cost(self._operations(value), sum(read), written)

    def _readable(self, value: Value) -> int:
        """Bytes to read of an operand: of a view no more than there are behind it."""
        most = self.nbytes(value.result_type)
        while value.operands and not self._owns(value):
            value = value.operands[0]
            most = min(most, self.nbytes(value.result_type))
        return 0 if isinstance(value.op, Absent) else most

    def _root(self, value: Value) -> Value:
        while value.operands and not self._owns(value):
            value = value.operands[0]
        return value

    @staticmethod
    def _owns(value: Value) -> bool:
        """Whether ``value`` is computed into memory of its own."""
        return bool(value.operands) and not value.op.view and not isinstance(value.op, Project)


def metrics(costs: Mapping[Value, Cost]) -> dict[str, dict[Value, float]]:
    """Numbers to colour a drawing by: ``flops`` and ``bytes`` of each Value that has any."""
    return {
        "flops": {value: cost.flops for value, cost in costs.items() if cost.flops},
        "bytes": {value: cost.bytes for value, cost in costs.items() if cost.bytes},
    }


def details(costs: Mapping[Value, Cost]) -> dict[Value, dict[str, str]]:
    """What to say about each Value that costs anything: operations, bytes and operations a byte, in words."""
    return {value: described(cost) for value, cost in costs.items() if cost.flops or cost.bytes}


def described(cost: Cost) -> dict[str, str]:
    """A cost in words."""
    return {
        "operations": amount(cost.flops, "FLOP"),
        "bytes": f"{nbytes(cost.read)} read, {nbytes(cost.written)} written",
        "intensity": f"{cost.intensity:.2f} FLOP/byte",
    }


def amount(number: float, unit: str = "") -> str:
    """``number`` with three digits and a decimal prefix: ``1.23 MFLOP``."""
    for prefix in ("", "k", "M", "G", "T", "P"):
        if abs(number) < 999.5 or prefix == "P":
            break
        number /= 1000
    text = f"{number:.0f}" if not prefix or abs(number) >= 99.95 else f"{number:.{2 if abs(number) < 9.995 else 1}f}"
    return f"{text} {prefix}{unit}".rstrip()


def nbytes(number: float) -> str:
    """``number`` bytes with three digits and a binary prefix: ``1.23 MiB``."""
    for prefix in ("", "Ki", "Mi", "Gi", "Ti"):
        if abs(number) < 1023.5 or prefix == "Ti":
            break
        number /= 1024
    text = f"{number:.0f}" if not prefix or abs(number) >= 99.95 else f"{number:.{2 if abs(number) < 9.995 else 1}f}"
    return f"{text} {prefix}B"
