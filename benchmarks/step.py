"""The time and memory of one training step of an MLP 768 → 3072 → 768 with LoRA of rank 8 on both layers.

    python -m benchmarks.step --torch-python PATH

Contenders first run a few steps untimed; where their losses differ by more than 1e-4 nothing is measured. Memory is
what the first steps allocate at most beyond the network and its batch (all buffers and temporaries; PyTorch's cannot be
traced), and the largest resident set of the process, as a whole and above what it was once the packages were imported
(which includes making the network, and modules loaded on first use).
"""

from __future__ import annotations

import argparse
import importlib
import sys
import tracemalloc

from benchmarks import harness, mlp

AGREEMENT = 1e-4
"""Largest relative difference between the losses of two contenders."""
REFERENCE = "numpy"


def work(name: str, batch: int, warmup: int, steps: int) -> None:
    """One contender in this process: the losses of the warm-up, the seconds of each step, the memory taken."""
    contender = mlp.contenders(sys.executable, sys.executable)[name]
    harness.require(contender)
    for package in contender.needs:
        importlib.import_module(package)
    stopwatch = harness.Stopwatch()
    problem = mlp.Problem(batch)
    step = mlp.STEPS[name](problem)
    x, t = problem.data()
    tracemalloc.start()
    losses = [step(x, t) for _ in range(warmup)]
    taken = tracemalloc.get_traced_memory()[1] / harness.MIB if "torch" not in contender.needs else None
    tracemalloc.stop()
    seconds = stopwatch.time(lambda: step(x, t), steps)
    harness.report(contender, losses=losses, seconds=seconds, step_mib=taken, **stopwatch.memory())


def check_agreement(losses: dict[str, list[float]]) -> float:
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


def measure(chosen: list[harness.Contender], batch: int, options: argparse.Namespace) -> dict[str, object]:
    """One batch size: agreement first, then the rounds; prints a table and returns what there is to keep."""

    def run(contender: harness.Contender, steps: int) -> harness.Report:
        arguments = ["--batch", batch, "--warmup", options.warmup, "--steps", steps]
        return harness.run_worker("benchmarks.step", contender, arguments)

    firsts, skipped = harness.available(chosen, lambda contender: run(contender, 0))
    difference = check_agreement({contender.name: report["losses"] for contender, report in firsts.items()})
    reports = harness.alternate(firsts, lambda contender: run(contender, options.steps), options.rounds)
    reference = REFERENCE if REFERENCE in reports else next(iter(reports))
    rows = harness.compare(reports, reference)
    print(f"\nbatch {batch}, losses agree within {difference:.0e}\n\n{harness.table(rows, reference)}\n", flush=True)
    return {
        "batch": batch,
        "loss_difference": difference,
        "skipped": skipped,
        "versions": {contender.name: report["versions"] for contender, report in firsts.items()},
        "rows": rows,
        "round_medians_ms": harness.round_medians(reports),
    }


def parse_options() -> argparse.Namespace:
    counts = {"steps": (30, "timed steps per process"), "warmup": (10, "untimed steps before them")}
    parser = harness.parser("step", __doc__, counts)
    harness.add_torch(parser)
    parser.add_argument("--batch", type=int, nargs="+", default=[64, 512], help="batch sizes (64 and 512)")
    parser.add_argument("--contenders", nargs="+", choices=mlp.STEPS, default=list(mlp.STEPS), help="which to run")
    return parser.parse_args()


def main() -> None:
    chosen = parse_options()
    if chosen.worker:
        work(chosen.worker, chosen.batch[0], chosen.warmup, chosen.steps)
        return
    harness.announce()
    every = mlp.contenders(sys.executable, chosen.torch_python)
    results = [measure([every[name] for name in chosen.contenders], batch, chosen) for batch in chosen.batch]
    harness.save("step", threads=1, results=results)


if __name__ == "__main__":
    main()
