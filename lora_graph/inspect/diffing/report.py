"""What a diff found, as data, as text and by module."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from lora_graph.display import Shown
from lora_graph.inspect.diffing.changes import Change
from lora_graph.inspect.diffing.lines import listed, moved
from lora_graph.inspect.diffing.modules import Whereabouts
from lora_graph.inspect.diffing.side import kind_of
from lora_graph.inspect.diffing.weights import WeightChange
from lora_graph.ir.graph import Graph
from lora_graph.ir.text import value_names
from lora_graph.ir.value import Value


@dataclass(frozen=True)
class Fusion:
    """The ops ``before`` became the ops ``after``, which compute the same."""

    before: tuple[Value, ...]
    after: tuple[Value, ...]


@dataclass(frozen=True)
class Renamed:
    """What is called ``before`` in one graph and ``after`` in the other: an input, output, parameter or dimension."""

    kind: str
    before: str
    after: str


@dataclass(frozen=True)
class Module:
    """How many differences there are in one module. ``name`` is that of the first graph, if the module is there."""

    name: str
    added: int = 0
    removed: int = 0
    changed: int = 0
    fused: int = 0
    weights: int = 0


@dataclass(frozen=True)
class DiffReport(Shown):
    """How the graph ``left`` became ``right``. ``matches`` maps each Value of ``left`` to what it is in ``right``.

    Values in ``removed`` and ``before`` are of ``left``, those in ``added`` and ``after`` of ``right``. Names are no
    difference: ``renamed`` lists them.
    """

    labels: tuple[str, str]
    left: Graph
    right: Graph
    matches: Mapping[Value, Value]
    added: tuple[Value, ...] = ()
    removed: tuple[Value, ...] = ()
    changed: tuple[Change, ...] = ()
    fused: tuple[Fusion, ...] = ()
    weights: tuple[WeightChange, ...] = ()
    renamed: tuple[Renamed, ...] = ()
    outputs: Mapping[str, str] = field(default_factory=dict)
    """Names of outputs of ``left``, with what they are called in ``right``."""

    @property
    def equal(self) -> bool:
        """Whether both compute the same in the same way, with the same weights."""
        is_same_interface = len(self.outputs) == len(self.left.outputs) == len(self.right.outputs)
        return is_same_interface and not (self.added or self.removed or self.changed or self.fused or self.weights)

    @property
    def added_outputs(self) -> tuple[str, ...]:
        known = set(self.outputs.values())
        return tuple(name for name in self.right.outputs if name not in known)

    @property
    def removed_outputs(self) -> tuple[str, ...]:
        return tuple(name for name in self.left.outputs if name not in self.outputs)

    @cached_property
    def names(self) -> tuple[Mapping[Value, str], Mapping[Value, str]]:
        """What the Values of each side are called in print."""
        return printed_names(self.left), printed_names(self.right)

    @cached_property
    def modules(self) -> tuple[Module, ...]:
        """The modules with differences, in the order of the first of them; see :class:`Module`."""
        counts: dict[str, dict[str, int]] = {}
        where = Whereabouts(self.left, self.right, self.matches)

        def count(kind: str, name: str, number: int = 1) -> None:
            found = counts.setdefault(name, {})
            found[kind] = found.get(kind, 0) + number

        for weight in self.weights:
            count("weights", where.left(weight.before))
        for change in self.changed:
            count("changed", where.left(change.before))
        for fusion in self.fused:
            count("fused", where.left(fusion.before[-1]))
        for value in self.removed:
            count("removed", where.left(value))
        for value in self.added:
            count("added", where.right(value))
        return tuple(Module(name, **found) for name, found in sorted(counts.items(), key=lambda c: where.rank(c[0])))

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON; numbers that are not finite stay what they are."""
        left, right = self.names
        return {
            "equal": self.equal,
            "left": self.labels[0],
            "right": self.labels[1],
            "matched": len(self.matches),
            "modules": [vars(module) for module in self.modules],
            "added": [_described(value, right) for value in self.added],
            "removed": [_described(value, left) for value in self.removed],
            "added_outputs": list(self.added_outputs),
            "removed_outputs": list(self.removed_outputs),
            "changed": [
                {
                    "before": left[change.before],
                    "after": right[change.after],
                    "op": kind_of(change.before),
                    "what": {name: list(texts) for name, texts in change.what.items()},
                }
                for change in self.changed
            ],
            "fused": [
                {
                    "before": [_described(value, left) for value in fusion.before],
                    "after": [_described(value, right) for value in fusion.after],
                }
                for fusion in self.fused
            ],
            "weights": [
                {
                    "before": left[weight.before],
                    "after": right[weight.after],
                    "types": list(map(str, weight.types)),
                    "norm": weight.norm,
                    "relative": weight.relative,
                    "largest": weight.largest,
                    "rank": weight.rank,
                    "full_rank": weight.full_rank,
                    "transposed": weight.turned,
                }
                for weight in self.weights
            ],
            "renamed": [vars(renamed) for renamed in self.renamed],
        }

    def __repr__(self) -> str:
        return f"<DiffReport: {self.summary}>"

    @property
    def summary(self) -> str:
        """What differs, in one line."""
        if self.equal:
            return f"equal ({len(self.renamed)} renamed)" if self.renamed else "equal"
        counts = {
            "added": len(self.added),
            "removed": len(self.removed),
            "changed": len(self.changed),
            "fused": len(self.fused),
            "weight changed" if len(self.weights) == 1 else "weights changed": len(self.weights),
            "outputs added": len(self.added_outputs),
            "outputs removed": len(self.removed_outputs),
        }
        return ", ".join(f"{number} {what}" for what, number in counts.items() if number)

    def __str__(self) -> str:
        lines = [f"{self.labels[0]} -> {self.labels[1]}: {self.summary}"]
        lines += [f"  weight {moved(weight, self.names[0])}" for weight in self.weights]
        lines += [f"  {kind} {line}" for kind, found in listed(self) for line in found]
        return "\n".join(lines)


def printed_names(graph: Graph) -> Mapping[Value, str]:
    return {value: name.removeprefix("%") for value, name in value_names(graph).items()}


def _described(value: Value, names: Mapping[Value, str]) -> dict[str, str]:
    return {"name": names[value], "op": kind_of(value), "type": str(value.result_type)}
