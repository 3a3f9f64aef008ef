"""What reports of several rounds come to, and Markdown tables of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from benchmarks.harness import Report


@dataclass(frozen=True)
class Spread:
    """The median of what several rounds gave, with the smallest and the largest."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, numbers: Sequence[float]) -> Spread:
        return cls(median(numbers), min(numbers), max(numbers))


@dataclass(frozen=True)
class Row:
    """One contender: milliseconds a call, time relative to the reference in the same round, and peak memory.

    ``step_mib`` is what a call allocates at most, where that can be traced; ``of_floor`` is how much of its time the
    matrix products alone would take (benchmarks.floor), where that was measured. ``cpu`` and ``cpu_ratio`` are times of
    the processor instead of the clock, which depend less on what else it does.
    """

    name: str
    milliseconds: Spread
    ratio: Spread
    peak_mib: float
    peak_above_imports_mib: float
    step_mib: float | None
    of_floor: Spread | None = None
    cpu: Spread | None = None
    cpu_ratio: Spread | None = None


def round_medians(reports: Mapping[str, Sequence[Report]], key: str = "seconds") -> dict[str, list[float]]:
    """The median of the ``seconds`` of each round, in milliseconds, of the contenders that report them."""
    return {
        name: [median(report[key]) * 1e3 for report in rounds] for name, rounds in reports.items() if key in rounds[0]
    }


def compare(
    reports: Mapping[str, Sequence[Report]], reference: str, floor: Sequence[float] = (), clock: str = "seconds"
) -> list[Row]:
    """A row per contender; a ratio is that of the two medians of one round.

    ``floor``: milliseconds in each round, to be compared with the contenders' ``clock``.
    """
    medians = round_medians(reports)
    cpu = round_medians(reports, "cpu_seconds")
    timed = round_medians(reports, clock)
    return [
        Row(
            name,
            Spread.of(medians[name]),
            _ratio(medians[name], medians[reference]),
            median(report["peak_mib"] for report in rounds),
            median(report["peak_above_imports_mib"] for report in rounds),
            rounds[0].get("step_mib"),
            _ratio(floor, timed[name]) if floor else None,
            Spread.of(cpu[name]) if name in cpu else None,
            _ratio(cpu[name], cpu[reference]) if {name, reference} <= cpu.keys() else None,
        )
        for name, rounds in reports.items()
    ]


def _ratio(numbers: Sequence[float], others: Sequence[float]) -> Spread:
    return Spread.of([a / b for a, b in zip(numbers, others, strict=True)])


def table(rows: Sequence[Row], reference: str) -> str:
    """The rows as a Markdown table."""
    head = [
        "contender",
        "ms",
        "min..max",
        f"time / {reference}",
        "min..max",
        "CPU ms",
        f"CPU / {reference}",
        "step MiB",
        "peak RSS MiB",
        "above imports MiB",
        "floor / time",
        "min..max",
    ]
    cells = [
        [
            row.name,
            f"{row.milliseconds.median:.2f}",
            _range(row.milliseconds),
            f"{row.ratio.median:.2f}",
            _range(row.ratio),
            "-" if row.cpu is None else f"{row.cpu.median:.2f}",
            "-" if row.cpu_ratio is None else f"{row.cpu_ratio.median:.2f}",
            "-" if row.step_mib is None else f"{row.step_mib:.1f}",
            f"{row.peak_mib:.0f}",
            f"{row.peak_above_imports_mib:.0f}",
            *(("-", "-") if row.of_floor is None else (f"{row.of_floor.median:.2f}", _range(row.of_floor))),
        ]
        for row in rows
    ]
    return markdown(head, cells)


def markdown(head: Sequence[str], cells: Iterable[Sequence[str]]) -> str:
    """A Markdown table of the columns in which there is anything."""
    columns = [column for column in zip(head, *cells, strict=True) if {*column[1:]} != {"-"}]
    widths = [max(map(len, column)) for column in columns]
    lines = [*zip(*columns, strict=True)]
    lines.insert(1, tuple("-" * width for width in widths))
    return "\n".join("| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |" for line in lines)


def _range(spread: Spread) -> str:
    return f"{spread.low:.2f}..{spread.high:.2f}"
