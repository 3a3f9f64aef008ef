"""Rounds of contenders that train the same model: agreement first, then their times, memory, and the floor."""

from __future__ import annotations

import importlib
import tracemalloc
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks import floor, harness, tables
from benchmarks.harness import Contender, Report
from benchmarks.products import Products, listed

AGREEMENT = 1e-4
"""Largest relative difference between the losses of two contenders."""


def check_agreement(losses: Mapping[str, Sequence[float]]) -> float:
    """The largest relative difference to the first contender's losses; RuntimeError if it is too large."""
    (first, expected), *others = losses.items()
    worst = 0.0
    for name, found in others:
        for a, b in zip(found, expected, strict=True):
            difference = abs(a - b) / abs(b)
            if not difference <= AGREEMENT:  # as it is for NaN, too
                raise RuntimeError(f"losses of {name} and {first} differ, {a} against {b}: not comparable")
            worst = max(worst, difference)
    return worst


def train_here(
    contender: Contender,
    make: Callable[[], Callable[[], float]],
    warmup: int,
    steps: int,
    provider: str = "cpu",
    traced: bool = False,
) -> None:
    """Run one contender in this process and report the losses of ``warmup``, the seconds of each step, and memory.

    ``make`` gives what is called for a step. With ``traced``, ``step_mib`` is what the first steps allocate at most.
    """
    harness.require(contender)
    if provider == "cuda":
        harness.require_cuda(contender)
    for package in contender.needs:
        importlib.import_module(package)
    stopwatch = harness.Stopwatch()
    step = make()
    if traced:
        tracemalloc.start()
    losses = [step() for _ in range(warmup)]
    taken = tracemalloc.get_traced_memory()[1] / harness.MIB if traced else None
    tracemalloc.stop()
    seconds = stopwatch.time(step, steps)
    cpu = stopwatch.cpu_seconds
    harness.report(contender, losses=losses, seconds=seconds, cpu_seconds=cpu, step_mib=taken, **stopwatch.memory())


def compare_training(
    title: str,
    contenders: Sequence[Contender],
    run: Callable[[Contender, bool], Report],
    rounds: int,
    reference: str,
    products: Products,
    floors: Sequence[Contender],
) -> dict[str, Any]:
    """Print the table of ``contenders`` and give what there is to keep.

    ``run(contender, timed)`` is a report of one of them, with its losses, and with seconds where it is ``timed``.
    ``floors`` are to run the ``products`` of a step in the same rounds. SystemExit where nobody can run here.
    """
    firsts, skipped = harness.available(contenders, lambda contender: run(contender, False))
    if not firsts:
        raise SystemExit(f"{title}: nobody can run here")
    difference = check_agreement({contender.name: report["losses"] for contender, report in firsts.items()})
    bases, _ = harness.available(floors, lambda contender: floor.run(contender, {}))

    def measure(contender: Contender) -> Report:
        return floor.run(contender, products) if contender in bases else run(contender, True)

    reports = harness.alternate([*firsts, *bases], measure, rounds)
    bests = floor.best_of({contender.name: reports.pop(contender.name) for contender in bases}, products)
    chosen = reference if reference in reports else next(iter(reports))
    clock = "seconds" if "floor-cuda" in {contender.name for contender in bases} else "cpu_seconds"
    rows = tables.compare(reports, chosen, [floor.milliseconds(best, products) for best in bests], clock)
    print(f"\n{title}: losses agree within {difference:.0e}\n\n{tables.table(rows, chosen)}\n", flush=True)
    if bests:
        print(f"{floor.describe(bests, products)}\n", flush=True)
    return {
        "title": title,
        "loss_difference": difference,
        "skipped": skipped,
        "versions": {contender.name: report["versions"] for contender, report in firsts.items()},
        "rows": rows,
        "round_medians_ms": tables.round_medians(reports),
        "products": listed(products),
        "floor_ms": [floor.milliseconds(best, products) for best in bests],
    }
