"""What adapters cost when they are deployed: latency in ONNX Runtime relative to the base alone, and swapping.

    python -m benchmarks.deploy [--batch 64 1] [--rounds 7]

A dense layer 768 × 768 with the CPU provider, one thread, a process for each contender, in alternating rounds. Every
contender's output is checked against the layers themselves before it is timed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

import lora_graph as lg
from benchmarks import harness, tables

FEATURES, RANK, MAX_RANK, COUNT = 768, 8, 64, 16
NEEDS = ("numpy", "onnxruntime")
REFERENCE = "base"
CALLS = 20
"""Calls that are timed together, for one takes less than a tenth of a millisecond at batch 1."""

Feeds = dict[str, Any]


@dataclass(frozen=True)
class Deployed:
    """A model to run: the layer, the options of its export, further inputs for a batch, and what is to come out."""

    layer: lg.Layer
    options: dict[str, Any]
    feeds: Callable[[int], Feeds]
    expected: Callable[[Any], Any]
    adapter: bool = False
    """Whether an adapter file is active."""


def nothing(batch: int) -> Feeds:
    return {}


def base() -> lg.DenseLayer:
    return lg.DenseLayer(FEATURES, FEATURES, rng=0)


def adapted(family: str = "lora", rank: int = RANK, count: int = 1, **options: Any) -> lg.AdaptedModel:
    rng = np.random.default_rng(1)
    model = lg.AdaptedModel(base())
    for index in range(count):
        model.add_adapter(f"a{index}", family, rank=rank, alpha=3, rng=rng, **options)
    model.set_parameters(rng.normal(0, 0.05, model.parameter_count))
    model.eval()
    return model


def alone() -> Deployed:
    layer = base()
    return Deployed(layer, {}, nothing, layer.forward)


def one(form: str, active: bool = True, family: str = "lora") -> Deployed:
    model = adapted(family)
    swaps = form == "hot-swap"
    return Deployed(model, {"form": form}, nothing, model.forward if active else model.base.forward, swaps and active)


def many(layout: str) -> Deployed:
    model = adapted(count=COUNT)

    def numbers(batch: int) -> Feeds:
        return {"adapter": np.arange(batch) % COUNT}

    def expected(x: Any) -> Any:
        names, rows = list(model.adapters), []
        for sample, number in zip(x, numbers(len(x))["adapter"], strict=True):
            model.set_active(names[number])
            rows.append(model.forward(sample))
        return np.stack(rows)

    return Deployed(model, {"form": "multi-adapter", "layout": layout}, numbers, expected)


def dynamic(rank: int) -> Deployed:
    model = adapted("dylora", MAX_RANK, active_ranks=range(1, MAX_RANK + 1))

    def expected(x: Any) -> Any:
        model.adapters["a0"].current_deployment_rank = rank  # type: ignore[attr-defined]
        return model.forward(x)

    return Deployed(model, {"form": "dynamic-rank"}, lambda _: {"rank": np.asarray(rank)}, expected)


CONTENDERS: dict[str, Callable[[], Deployed]] = {
    REFERENCE: alone,
    "adapted": partial(one, "parallel"),
    "hot-swap, no adapter": partial(one, "hot-swap", False),
    "hot-swap, adapter": partial(one, "hot-swap"),
    "lokr": partial(one, "parallel", True, "lokr"),
    "16 adapters, columns": partial(many, "columns"),
    "16 adapters, rows": partial(many, "rows"),
    "dynamic rank at 8": partial(dynamic, RANK),
    "weighted": partial(one, "weighted"),
}


def work(name: str, batch: int, repeat: int) -> None:
    """One contender in this process: the seconds of each call, and of loading an adapter and taking it for a run."""
    import onnxruntime

    made = CONTENDERS[name]()
    stopwatch = harness.Stopwatch()
    options, run_options = onnxruntime.SessionOptions(), onnxruntime.RunOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(lg.export_onnx(made.layer, **made.options).SerializeToString(), options)
    swap: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        native = onnxruntime.LoraAdapter()
        if made.adapter:
            path = Path(folder, "a.onnx_adapter")
            lg.export_adapter(made.layer, path)
            native.Load(str(path))
            run_options.add_active_adapter(native)
            swap = time_swap(made, path, stopwatch)
    x = np.random.default_rng(2).normal(size=(batch, FEATURES)).astype(np.float32)
    feeds = {"x": x, **made.feeds(batch)}
    (found,) = session.run(None, feeds, run_options)
    np.testing.assert_allclose(found, made.expected(x), rtol=1e-3, atol=1e-4)

    def calls() -> None:
        for _ in range(CALLS):
            session.run(None, feeds, run_options)

    calls()
    seconds = [taken / CALLS for taken in stopwatch.time(calls, repeat)]
    harness.report(harness.Contender(name, NEEDS), seconds=seconds, swap=swap, **stopwatch.memory())


def time_swap(made: Deployed, path: Path, stopwatch: harness.Stopwatch) -> list[float]:
    """Seconds of loading an adapter with all checks, and forgetting it again."""
    with lg.Session(lg.export_onnx(made.layer, **made.options), threads=1) as session:

        def swap() -> None:
            session.load_adapter(path, "next")
            session.unload_adapter("next")

        swap()
        return stopwatch.time(swap, 50)


def measure(chosen: list[str], batch: int, options: argparse.Namespace) -> dict[str, object]:
    """One batch size: the rounds, a table, and what there is to keep."""

    def run(contender: harness.Contender) -> harness.Report:
        arguments = ["--batch", batch, "--repeat", options.repeat]
        return harness.run_worker("benchmarks.deploy", contender, arguments)

    contenders = [harness.Contender(name, NEEDS) for name in chosen]
    reports = harness.alternate(contenders, run, options.rounds)
    rows = tables.compare(reports, REFERENCE)
    swaps = [second for rounds in reports.values() for report in rounds for second in report["swap"]]
    swap = median(swaps) * 1e3 if swaps else None
    print(f"\nbatch {batch}\n\n{tables.table(rows, REFERENCE)}\n", flush=True)
    if swap is not None:
        print(f"loading an adapter file, checks included, and forgetting it: {swap:.3f} ms\n", flush=True)
    return {
        "batch": batch,
        "versions": {name: rounds[0]["versions"] for name, rounds in reports.items()},
        "rows": rows,
        "swap_ms": swap,
        "round_medians_ms": tables.round_medians(reports),
    }


def parse_options() -> argparse.Namespace:
    parser = harness.parser("deploy", __doc__, {"repeat": (30, f"timings of {CALLS} calls per process")})
    parser.add_argument("--batch", type=int, nargs="+", default=[64, 1], help="batch sizes (64 and 1)")
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS), help="which to run")
    return parser.parse_args()


def main() -> None:
    chosen = parse_options()
    if chosen.worker:
        work(chosen.worker, chosen.batch[0], chosen.repeat)
        return
    if REFERENCE not in chosen.contenders:
        sys.exit(f"{REFERENCE!r} must be among the contenders: the others are compared with it")
    harness.announce()
    results = [measure(chosen.contenders, batch, chosen) for batch in chosen.batch]
    harness.save("deploy", threads=1, results=results)


if __name__ == "__main__":
    main()
