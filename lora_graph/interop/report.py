"""What an import did: for each module of a file the weight it was put at, and how that was found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from lora_graph.ir.types import show


@dataclass(frozen=True)
class ModuleReport:
    """One module: the parameter of the model that it was put at, and what was put there."""

    module: str
    weight: str
    shape: tuple[int, ...]
    layout: str
    """How the parameter lies: ``out, in``, ``in, out``, that of a convolution or of an embedding."""
    form: str
    """What the file has for it, such as ``lora`` or ``base bias``."""
    rank: int | None
    scale: float | None
    found_by: tuple[str, ...]
    """Name, scope, bias or value."""
    note: str = ""


@dataclass(frozen=True)
class ImportReport:
    """How each module of a file was found; as text, a table."""

    file: str
    modules: tuple[ModuleReport, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        head = ("module", "weight", "shape", "layout", "form", "rank", "scale", "found by")
        rows = [head, *(_row(entry) for entry in self.modules)]
        widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
        notes = ["", *(f"  ({entry.note})" if entry.note else "" for entry in self.modules)]
        lines = ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)) for row in rows]
        return "\n".join((line + note).rstrip() for line, note in zip(lines, notes, strict=True))


def _row(entry: ModuleReport) -> Sequence[str]:
    rank = "" if entry.rank is None else str(entry.rank)
    scale = "" if entry.scale is None else f"{entry.scale:g}"
    found = ", ".join(entry.found_by)
    return entry.module, entry.weight, show(entry.shape), entry.layout, entry.form, rank, scale, found
