"""Two profiles node by node: which node of one model is which of the other."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

from lora_graph.inspect.profile_report import Group, NodeTime, ProfileReport, spread

BASE = "base"
"""What the layer inside an adapter is called."""


@dataclass(frozen=True)
class Pair:
    """A node, or nodes that have something in common, and what it is in the other model; None where it is not there."""

    own: NodeTime | Group | None
    other: NodeTime | Group | None

    @property
    def seconds(self) -> tuple[float, float]:
        """The medians; 0 for what is not there."""
        return self.own.median if self.own else 0.0, self.other.median if self.other else 0.0

    @property
    def longer(self) -> float:
        return max(self.seconds)

    @property
    def ratio(self) -> float | None:
        """The time relative to the other model; None where one of them has none."""
        own, other = self.seconds
        return own / other if self.own and other else None

    def to_dict(self) -> dict[str, Any]:
        found = self.own or self.other
        assert isinstance(found, NodeTime)
        return {
            "node": found.node,
            "op": found.op,
            "module": found.module,
            "seconds": spread(self.own.seconds) if isinstance(self.own, NodeTime) else None,
            "against": spread(self.other.seconds) if isinstance(self.other, NodeTime) else None,
            "ratio": self.ratio,
        }


def compared(report: ProfileReport, against: ProfileReport) -> dict[str, list[Pair]]:
    """The nodes of both by engine."""
    both = [name for name in report.timings if name in against.timings]
    return {name: aligned(report.timings[name].nodes, against.timings[name].nodes) for name in both}


def aligned(own: Sequence[NodeTime], other: Sequence[NodeTime]) -> list[Pair]:
    """``own`` in order, each with the one of ``other`` that has its name and op; else the next one left that has its
    module and op; then what is left of ``other``. That a module is the base of an adapter makes it no other module."""
    found: dict[str, NodeTime] = {}
    _match(own, other, found, lambda node: (node.node, node.op))
    _match(own, other, found, lambda node: (home(node.node), node.op))
    _match(own, other, found, lambda node: (home(node.module), node.op))
    taken = {node.node for node in found.values()}
    left = [Pair(None, node) for node in other if node.node not in taken]
    return [*(Pair(node, found.get(node.node)) for node in own), *left]


def grouped(own: Sequence[Group], other: Sequence[Group]) -> list[Pair]:
    """Groups of one name together, the longest first."""
    mine, others = ({home(group.name): group for group in groups} for groups in (own, other))
    pairs = [Pair(mine.get(name), others.get(name)) for name in {**mine, **others}]
    return sorted(pairs, key=lambda pair: -pair.longer)


def home(path: str) -> str:
    """The path that something has in the model without adapters, where no base is set apart from what is beside it."""
    return ".".join(part for part in path.split(".") if part != BASE)


def _match(
    own: Sequence[NodeTime],
    other: Sequence[NodeTime],
    found: dict[str, NodeTime],
    key: Callable[[NodeTime], Hashable],
) -> None:
    """Add pairs of equal key, each node being in one pair, by the name of the first."""
    taken = {node.node for node in found.values()}
    free: dict[Hashable, list[NodeTime]] = {}
    for node in reversed(other):
        if node.node not in taken:
            free.setdefault(key(node), []).append(node)
    for node in own:
        if node.node not in found and free.get(key(node)):
            found[node.node] = free[key(node)].pop()
