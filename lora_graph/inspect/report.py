"""What a check found: differences of outputs, findings about an adapter file, and what could not be compared."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from lora_graph.display import Shown

UNKNOWN = "where it begins could not be found"


@dataclass(frozen=True)
class Finding:
    """One thing that a file has or lacks. ``error``: it cannot be used; ``warning``: it may not do what is meant."""

    severity: str
    where: str
    message: str

    def __str__(self) -> str:
        return f"{self.severity}: {self.where}: {self.message}" if self.where else f"{self.severity}: {self.message}"


def error(where: str, message: str) -> Finding:
    return Finding("error", where, message)


def warning(where: str, message: str) -> Finding:
    return Finding("warning", where, message)


def note(where: str, message: str) -> Finding:
    return Finding("note", where, message)


@dataclass(frozen=True)
class Comparison:
    """One output, computed in two ways: the largest differences over all cases, and where they first appear."""

    output: str
    dtype: str
    found: str
    expected: str
    absolute: float
    relative: float
    ulp: float
    case: str
    """The one with the largest relative difference."""
    tolerance: float
    """The largest absolute difference that is allowed in that case."""
    within: bool
    cause: str = ""
    """Where the difference begins, if this output differs: the first value that diverges, or a pass."""

    @property
    def pair(self) -> str:
        return f"{self.found} / {self.expected}"


@dataclass(frozen=True)
class CheckReport(Shown):
    """Everything :func:`lora_graph.check` found; ``ok`` if all is within tolerance and no finding is an error."""

    model: str
    truth: str
    """What the reference is."""
    cases: tuple[str, ...]
    comparisons: tuple[Comparison, ...]
    findings: tuple[Finding, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        is_within = all(comparison.within for comparison in self.comparisons)
        return is_within and all(finding.severity != "error" for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return {"ok": self.ok, **asdict(self)}

    def __str__(self) -> str:
        lines = [f"{self.model}: {'within tolerance' if self.ok else 'NOT within tolerance'}"]
        lines += map(str, self.findings)
        for c in self.comparisons:
            what = f"{c.output}: {c.pair}: absolute {c.absolute:.3g}, relative {c.relative:.3g}, {c.ulp:.3g} ulp"
            lines.append(what if c.within else f"{what} ({c.case}); {c.cause or UNKNOWN}")
        return "\n".join([*lines, *self.notes])
