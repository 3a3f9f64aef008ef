"""Records of what passes did: what reports, the command line and the inspection page read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lora_graph.display import Shown
from lora_graph.ir.graph import Graph
from lora_graph.ir.value import Value


@dataclass(frozen=True)
class Refused:
    """A rule matched ``value`` but was not applied, for ``reason``."""

    rule: str
    value: Value
    reason: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.reason}"


@dataclass(frozen=True)
class PassRecord:
    """One pass: the graph before and after, how often each rule fired, what was refused and why, seconds."""

    name: str
    before: Graph
    after: Graph
    fired: Mapping[str, int] = field(default_factory=dict)
    refused: list[Refused] = field(default_factory=list)
    sweeps: int = 1
    seconds: float = 0.0


@dataclass(frozen=True)
class Report(Shown):
    """What a pipeline did, pass by pass."""

    passes: tuple[PassRecord, ...]
    cache_hits: int = 0

    @property
    def before(self) -> Mapping[str, int]:
        """How often each op occurred before."""
        return self.passes[0].before.op_counts() if self.passes else {}

    @property
    def after(self) -> Mapping[str, int]:
        """How often each op occurs now."""
        return self.passes[-1].after.op_counts() if self.passes else {}

    @property
    def fired(self) -> Mapping[str, int]:
        """How often each rule fired, over all passes."""
        total: dict[str, int] = {}
        for record in self.passes:
            for name, count in record.fired.items():
                total[name] = total.get(name, 0) + count
        return total

    @property
    def refusals(self) -> list[Refused]:
        return [refused for record in self.passes for refused in record.refused]

    @property
    def reasons(self) -> list[str]:
        """What was refused and why, each once."""
        return sorted(set(map(str, self.refusals)))

    @property
    def seconds(self) -> float:
        return sum(record.seconds for record in self.passes)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain data, for JSON."""
        return {
            "before": dict(self.before),
            "after": dict(self.after),
            "fired": dict(self.fired),
            "refusals": [{"rule": r.rule, "op": r.value.op.name, "reason": r.reason} for r in self.refusals],
            "seconds": self.seconds,
            "cache_hits": self.cache_hits,
            "passes": [
                {
                    "name": record.name,
                    "values_before": len(record.before),
                    "values_after": len(record.after),
                    "fired": dict(record.fired),
                    "sweeps": record.sweeps,
                    "seconds": record.seconds,
                }
                for record in self.passes
            ],
        }

    def _change(self) -> str:
        return f"{sum(self.before.values())} ops -> {sum(self.after.values())} ops"

    def __repr__(self) -> str:
        return f"<Report: {self._change()} in {len(self.passes)} passes>"

    def __str__(self) -> str:
        lines = [f"{self._change()} in {self.seconds * 1e3:.1f} ms"]
        for record in self.passes:
            rules = ", ".join(f"{name} ×{count}" for name, count in record.fired.items()) or "nothing to do"
            lines.append(f"  {record.name}: {len(record.before)} -> {len(record.after)} values; {rules}")
            lines.extend(f"    refused {reason}" for reason in sorted(set(map(str, record.refused))))
        return "\n".join(lines)
