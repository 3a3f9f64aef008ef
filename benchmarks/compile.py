"""The time to build, optimize and export a model of 48 adapted 768 × 768 layers.

    python -m benchmarks.compile

Each round is a process of its own. "build" is drawing the weights and tracing the graph, "optimize" the pipeline of the
exported form, "export" lowering and writing the file (fsync included) to a temporary folder.
"""

from __future__ import annotations

import tempfile
import time
from itertools import pairwise
from pathlib import Path
from statistics import median

from benchmarks import harness, tables

CONTENDER = harness.Contender("lora_graph", needs=("numpy", "onnx", "onnx-ir"))
LAYERS, WIDTH, RANK = 48, 768, 8
PHASES = ("build", "optimize", "export")


def work() -> None:
    """One round in this process: the seconds of each phase."""
    import lora_graph as lg
    from lora_graph.onnx import export_model
    from lora_graph.rewrite import optimize_graph

    clock = [time.perf_counter()]
    layers = [lg.DenseLayer(WIDTH, WIDTH, rng=i) for i in range(LAYERS)]
    model = lg.Sequential([lg.StandardLoRAAdapter(layer, RANK, site="weight", rng=0) for layer in layers])
    graph = model.to_graph()
    clock.append(time.perf_counter())
    optimized = optimize_graph(graph, "export")
    state = optimized.state(model.state)
    clock.append(time.perf_counter())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.onnx")
        export_model(optimized.graph, state, path)
        clock.append(time.perf_counter())
        written = path.stat().st_size
    seconds = dict(zip(PHASES, (b - a for a, b in pairwise(clock)), strict=True))
    harness.report(CONTENDER, seconds=seconds, bytes=written, ops=sum(optimized.graph.op_counts().values()))


def main() -> None:
    chosen = harness.parser("compile", __doc__).parse_args()
    if chosen.worker:
        work()
        return
    reports = [harness.run_worker("benchmarks.compile", CONTENDER, []) for _ in range(chosen.rounds)]
    rows = {phase: tables.Spread.of([report["seconds"][phase] for report in reports]) for phase in PHASES}
    totals = tables.Spread.of([sum(report["seconds"].values()) for report in reports])
    harness.announce()
    for name, spread in {**rows, "total": totals}.items():
        print(f"{name:>9}: {spread.median:.3f} s ({spread.low:.3f}..{spread.high:.3f})")
    size = median(report["bytes"] for report in reports)
    print(f"{LAYERS} layers, {reports[0]['ops']} ops, {size / 1e6:.0f} MB written")
    harness.save("compile", threads=1, rows=rows, total=totals, bytes=size, versions=reports[0]["versions"])


if __name__ == "__main__":
    main()
