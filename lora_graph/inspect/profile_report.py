"""What a profile found: seconds of every node in every run, and what follows from them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from statistics import median, quantiles
from typing import Any

from lora_graph.display import Shown
from lora_graph.inspect.cost import Costs
from lora_graph.ir.value import Value

Seconds = tuple[float, ...]
"""One number for each run."""


@dataclass(frozen=True)
class NodeTime:
    """One node as an engine ran it: the seconds that it took in each run, and the operations that it stands for.

    ``value`` is what it computes, as a Value of the graph that was profiled; None for what the engine put in between.
    ``dtype`` is what most of it is computed in.
    """

    node: str
    op: str
    module: str
    seconds: Seconds
    flops: int = 0
    dtype: str = ""
    value: Value | None = None

    @property
    def median(self) -> float:
        return median(self.seconds)


@dataclass(frozen=True)
class Group:
    """Nodes that have something in common: how many there are, the sum of their medians, their operations."""

    name: str
    count: int
    median: float
    flops: int

    @classmethod
    def of(cls, name: str, nodes: Sequence[NodeTime]) -> Group:
        return cls(name, len(nodes), sum(node.median for node in nodes), sum(node.flops for node in nodes))


@dataclass(frozen=True)
class Timing:
    """One engine: its nodes in the order in which they ran, and the seconds of each run as a whole.

    ``runs`` are those in which the nodes were timed, ``plain`` others in which nothing was. ``peaks`` is the best rate
    of a matrix product that was measured in this engine, in operations a second, by dtype; ``costs`` are those of the
    graph whose Values the nodes compute.
    """

    engine: str
    nodes: tuple[NodeTime, ...]
    runs: Seconds
    plain: Seconds
    costs: Costs
    peaks: Mapping[str, float] = field(default_factory=dict)

    @property
    def median(self) -> float:
        """Seconds of a run in which nothing is timed."""
        return median(self.plain)

    @cached_property
    def outside(self) -> Seconds:
        """For each run in which nodes were timed, the seconds that were spent in none of them."""
        return tuple(run - sum(node.seconds[i] for node in self.nodes) for i, run in enumerate(self.runs))

    @property
    def flops(self) -> int:
        return sum(node.flops for node in self.nodes)

    @cached_property
    def seconds(self) -> dict[Value, float]:
        """The median seconds of each Value that a node computes."""
        found: dict[Value, float] = {}
        for node in self.nodes:
            if node.value is not None:
                found[node.value] = found.get(node.value, 0.0) + node.median
        return found

    @property
    def by_op(self) -> list[Group]:
        """The nodes of each op together, the longest first."""
        return self._grouped(lambda node: node.op)

    @property
    def by_module(self) -> list[Group]:
        """The nodes of each module together, the longest first."""
        return self._grouped(lambda node: node.module)

    def _grouped(self, key: Callable[[NodeTime], str]) -> list[Group]:
        nodes: dict[str, list[NodeTime]] = {}
        for node in self.nodes:
            nodes.setdefault(key(node), []).append(node)
        groups = [Group.of(name, members) for name, members in nodes.items()]
        return sorted(groups, key=lambda group: -group.median)

    @cached_property
    def accounted(self) -> float:
        """The medians of all nodes and of what is outside together.

        It is less than the median of the runs where something else that the machine did met a node here, another there.
        """
        return sum(node.median for node in self.nodes) + median(self.outside)

    def share(self, part: NodeTime | Group) -> float:
        """How much it is of all that is accounted for."""
        return part.median / self.accounted

    def of_peak(self, node: NodeTime) -> float | None:
        """The rate of a node as a part of the peak for its dtype; None where there is nothing to compare."""
        if node.dtype not in self.peaks or not node.flops or not node.median:
            return None
        return node.flops / node.median / self.peaks[node.dtype]

    @property
    def floor(self) -> float:
        """Seconds that all operations would take at the peak for their dtype; 0 where there is none."""
        return sum(node.flops / self.peaks[node.dtype] for node in self.nodes if node.dtype in self.peaks)

    def to_dict(self) -> dict[str, Any]:
        return {
            "engine": self.engine,
            "seconds": spread(self.plain),
            "seconds_profiled": spread(self.runs),
            "seconds_outside_nodes": spread(self.outside),
            "seconds_accounted": self.accounted,
            "flops": self.flops,
            "flops_per_second": self.flops / self.median,
            "peak_flops_per_second": dict(self.peaks),
            "of_peak": self.floor / self.median,
            "nodes": [
                {
                    "node": node.node,
                    "op": node.op,
                    "module": node.module,
                    "seconds": spread(node.seconds),
                    **_part(self, node),
                    "dtype": node.dtype,
                    "of_peak": self.of_peak(node),
                    "runs": list(node.seconds),
                }
                for node in self.nodes
            ],
            "ops": [{"op": group.name, **_group(self, group)} for group in self.by_op],
            "modules": [{"module": group.name, **_group(self, group)} for group in self.by_module],
        }


@dataclass(frozen=True)
class ProfileReport(Shown):
    """What :func:`lora_graph.profile` found: a :class:`Timing` for each engine, by its name.

    ``against`` is the same for the model that it was compared with.
    """

    model: str
    run_at: str
    threads: int
    warmup: int
    repeat: int
    seed: int
    timings: Mapping[str, Timing]
    notes: tuple[str, ...] = ()
    against: ProfileReport | None = None

    @property
    def seconds(self) -> dict[Value, float]:
        """The median seconds of each Value in the first engine."""
        return next(iter(self.timings.values())).seconds

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        from lora_graph.inspect.profile_against import compared

        facts: dict[str, Any] = {
            "model": self.model,
            "run_at": self.run_at,
            "threads": self.threads,
            "warmup": self.warmup,
            "repeat": self.repeat,
            "seed": self.seed,
            "engines": [timing.to_dict() for timing in self.timings.values()],
            "notes": list(self.notes),
        }
        if self.against is not None:
            facts["against"] = self.against.to_dict()
            pairs = compared(self, self.against)
            facts["compared"] = {name: [pair.to_dict() for pair in found] for name, found in pairs.items()}
        return facts

    def __repr__(self) -> str:
        times = ", ".join(f"{name} {timing.median * 1e3:.3f} ms" for name, timing in self.timings.items())
        return f"<ProfileReport of {self.model}: {times}>"

    def __str__(self) -> str:
        from lora_graph.inspect.profile_text import text

        return text(self)


def spread(seconds: Iterable[float]) -> dict[str, float]:
    """The median, and the quartiles around it."""
    numbers = sorted(seconds)
    low, middle, high = quantiles(numbers, n=4, method="inclusive") if len(numbers) > 1 else numbers * 3
    return {"median": middle, "low": low, "high": high}


def _group(timing: Timing, group: Group) -> dict[str, Any]:
    return {"nodes": group.count, "seconds": group.median, **_part(timing, group)}


def _part(timing: Timing, part: NodeTime | Group) -> dict[str, Any]:
    rate = part.flops / part.median if part.median else None
    return {
        "share": timing.share(part),
        "flops": part.flops,
        "flops_per_second": rate,
    }
