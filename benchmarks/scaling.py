"""How the time of a training step grows: with batch, width, depth, threads, and the active rank of DyLoRA.

    python -m benchmarks.scaling --torch-python PATH

The network is that of benchmarks.mlp: dense layers width → 4 · width → width, ``depth`` times, with LoRA of rank 8, or
for the active rank with DyLoRA of rank 32 of which the first b are trained at every step. One size is changed at a
time; the others stay at batch 64, width 768, depth 1 and one thread. Every point of every contender is a process.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from benchmarks import harness, mlp_contenders, tables
from benchmarks.harness import Contender, Report
from benchmarks.mlp import Problem, Step
from benchmarks.mlp_contenders import STEPS
from benchmarks.mlp_lora_graph import ENGINES, dylora_model, training_step
from benchmarks.rounds import check_agreement, train_here

MODULE = "benchmarks.scaling"
NAMES = ("lora_graph-numpy", "lora_graph-onnxruntime", "peft")


@dataclass(frozen=True)
class Point:
    """A size of the network and of its batch, and how many threads train it. ``active`` is DyLoRA's b; 0 is LoRA."""

    batch: int = 64
    width: int = 768
    depth: int = 1
    threads: int = 1
    active: int = 0

    @property
    def problem(self) -> Problem:
        rank = Problem.rank if not self.active else MAX_RANK
        return Problem(self.batch, self.width, 4 * self.width, rank, self.depth)

    @property
    def arguments(self) -> list[object]:
        return [self.batch, self.width, self.depth, self.threads, self.active]


BASE = Point()
MAX_RANK = 32
AXES: dict[str, list[Point]] = {
    "batch": [replace(BASE, batch=batch) for batch in (16, 64, 256)],
    "width": [replace(BASE, width=width) for width in (256, 768, 1536)],
    "depth": [replace(BASE, depth=depth) for depth in (1, 2, 4)],
    "threads": [replace(BASE, threads=threads) for threads in (1, 2)],
    "active": [replace(BASE, active=active) for active in (1, 2, 4, 8, 16, 32)],
}
"""The points of each axis, in the order of its sizes."""


def stepper(name: str, point: Point) -> Step:
    """What a contender calls for each step at ``point``."""
    if not point.active:
        return STEPS[name](point.problem)
    training = training_step(dylora_model(point.problem, point.active), name)
    return lambda x, t: float(training.run(x, t))


def points(axes: Sequence[str]) -> list[Point]:
    """The points of several axes, each once."""
    return [*dict.fromkeys(point for axis in axes for point in AXES[axis])]


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """All points of all contenders in alternating rounds; prints a table of each axis and returns what to keep."""
    every = mlp_contenders.contenders(sys.executable, options.torch_python, sys.executable)
    given = ["--warmup", options.warmup, "--steps", options.steps]

    def run(contender: Contender, point: Point) -> Report:
        return harness.run_worker(MODULE, contender, [*given, "--point", *point.arguments], threads=point.threads)

    able, skipped = harness.available([every[name] for name in NAMES], lambda contender: run(contender, BASE))
    reports: dict[Point, dict[str, list[Report]]] = {point: {} for point in points(options.axes)}
    for index in range(options.rounds):
        for point in reports if index % 2 == 0 else reversed(reports):
            chosen = [contender for contender in able if not point.active or contender.name in ENGINES]
            for name, found in harness.alternate(
                chosen[:: -1 if index % 2 else 1], partial(run, point=point), 1
            ).items():
                reports[point].setdefault(name, []).extend(found)
            check_agreement({name: found[-1]["losses"] for name, found in reports[point].items()})
    for axis in options.axes:
        print(f"\n{axis}\n\n{table(axis, reports)}", flush=True)
    kept = [
        {"point": point, "rows": tables.compare(found, next(iter(found))), "medians_ms": tables.round_medians(found)}
        for point, found in reports.items()
    ]
    return {"skipped": skipped, "points": kept}


def table(axis: str, reports: dict[Point, dict[str, list[Report]]]) -> str:
    """A row a size: milliseconds of each contender, how much more than at the first, the processor's, and memory."""
    measured = {point: reports[point] for point in AXES[axis]}
    names = [name for name in NAMES if name in next(iter(measured.values()))]
    medians = {point: {row.name: row for row in tables.compare(found, names[0])} for point, found in measured.items()}
    first = next(iter(medians.values()))
    head = [axis, *(f"{name} {what}" for name in names for what in ("ms", "min..max", "growth", "CPU ms", "peak MiB"))]
    cells = []
    for point, rows in medians.items():
        line = [str(getattr(point, axis))]
        for name in names:
            took, cpu = rows[name].milliseconds, rows[name].cpu
            growth = took.median / first[name].milliseconds.median
            line += [f"{took.median:.1f}", f"{took.low:.1f}..{took.high:.1f}", f"{growth:.2f}"]
            line += ["-" if cpu is None else f"{cpu.median:.1f}", f"{rows[name].peak_mib:.0f}"]
        cells.append(line)
    return tables.markdown(head, cells)


def parse_options() -> argparse.Namespace:
    counts = {"steps": (8, "timed steps per process"), "warmup": (3, "untimed steps before them")}
    parser = harness.parser("scaling", __doc__, counts, rounds=2)
    harness.add_torch(parser, "PyTorch and PEFT")
    parser.add_argument("--axes", nargs="+", choices=AXES, default=list(AXES), help="what to change (all)")
    parser.add_argument("--point", nargs=len(BASE.arguments), type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    chosen = parse_options()
    if chosen.worker:
        point = Point(*chosen.point)
        contender = mlp_contenders.contenders(sys.executable, sys.executable, sys.executable)[chosen.worker]
        x, t = point.problem.data()
        train_here(contender, lambda: partial(stepper(contender.name, point), x, t), chosen.warmup, chosen.steps)
        return
    harness.announce("one thread, or as many as it says,")
    harness.save("scaling", **measure(chosen))


if __name__ == "__main__":
    main()
