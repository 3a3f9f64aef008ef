"""LoRA on a whole model: training, exporting and running the encoder of benchmarks.encoder, against PyTorch and PEFT.

    python -m benchmarks.transformer --torch-python PATH

PyTorch first exports the encoder and a PEFT adapter of rank 8 for each of its 36 linear layers; that ONNX file and that
adapter are what lora_graph starts from. Measured are a training step of each (Adam on the mean squared error; losses
that differ by more than 1e-4 end the comparison), the way from a base to an exported adapted model (once imports are
done, and in a new process as a whole), and the latency of the exported models in ONNX Runtime.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks import encoder, harness
from benchmarks.harness import Contender, Report, Spread
from benchmarks.step import check_agreement

BATCH, LENGTH = 16, 64
MODELS = {"base": "base.onnx", "PEFT": "peft.onnx", "lora_graph": "adapted.onnx"}
"""The models whose latency is compared, by what made them."""


def train_lora_graph(folder: Path) -> Callable[[], float]:
    import lora_graph as lg
    from lora_graph.train.step import TrainingStep

    inputs, target = encoder.data(BATCH, LENGTH)
    model = lg.load_peft(lg.load_onnx(folder / "base.onnx"), folder / "peft").train()
    step = TrainingStep(model, "mse", lg.Adam(encoder.LEARNING_RATE))
    return lambda: step.run(inputs, target)


def train_peft(folder: Path) -> Callable[[], float]:
    return encoder.torch_step(folder / "peft", *encoder.data(BATCH, LENGTH))


def export(folder: Path) -> Report:
    """Seconds for import, adapting and export, with new adapters and with those of a PEFT folder.

    Everything has been imported by then, and done for a small model.
    """
    import lora_graph as lg

    small = lg.DenseLayer(4, 4)
    lg.export_onnx(lg.adapt(lg.load_onnx(lg.export_onnx(small)), rank=1), folder / "small.onnx")
    ways: dict[str, Callable[[Any], Any]] = {
        "adapt": lambda base: lg.adapt(base, rank=encoder.RANK, alpha=encoder.ALPHA, rng=0),
        "load_peft": lambda base: lg.load_peft(base, folder / "peft"),
    }
    parts: dict[str, dict[str, float]] = {}
    nodes = 0
    for name, way in ways.items():
        times = [time.perf_counter()]
        base = lg.load_onnx(folder / MODELS["base"])
        times.append(time.perf_counter())
        model = way(base)
        times.append(time.perf_counter())
        nodes = len(lg.export_onnx(model, folder / MODELS["lora_graph"]).graph.node)
        times.append(time.perf_counter())
        seconds = [after - before for before, after in pairwise(times)]
        parts[name] = dict(zip(("import", name, "export", "total"), [*seconds, times[-1] - times[0]], strict=True))
    return {"parts": parts, "nodes": nodes}


def latency(path: Path, repeat: int) -> Report:
    """Seconds of each run of a model in ONNX Runtime, one thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    inputs, _ = encoder.data(BATCH, LENGTH)
    stopwatch = harness.Stopwatch()
    stopwatch.time(lambda: session.run(None, inputs), 2)
    return {"seconds": stopwatch.time(lambda: session.run(None, inputs), repeat), **stopwatch.memory()}


TRAINERS = {"PEFT": train_peft, "lora_graph": train_lora_graph}


def contenders(python: str, torch_python: str) -> dict[str, Contender]:
    """The contenders by name; what needs PyTorch is run by ``torch_python``."""
    torch = ("numpy", "torch", "transformers", "peft")
    own = ("numpy", "onnx", "lora_graph")
    listed = [
        Contender("prepare", (*torch, "onnx", "onnxscript"), torch_python),
        Contender("PEFT", torch, torch_python),
        Contender("lora_graph", own, python),
        Contender("export", own, python),
        *(Contender(f"latency-{name}", ("numpy", "onnxruntime"), python) for name in MODELS),
    ]
    return {contender.name: contender for contender in listed}


def work(name: str, folder: Path, warmup: int, steps: int) -> None:
    """One contender in this process."""
    contender = contenders(sys.executable, sys.executable)[name]
    harness.require(contender)
    if name == "prepare":
        harness.report(contender, **encoder.export(folder))
    elif name == "export":
        harness.report(contender, **export(folder))
    elif name.startswith("latency-"):
        harness.report(contender, **latency(folder / MODELS[name.removeprefix("latency-")], steps))
    else:
        for package in contender.needs:
            __import__(package)
        stopwatch = harness.Stopwatch()
        step = TRAINERS[name](folder)
        losses = [step() for _ in range(warmup)]
        harness.report(contender, losses=losses, seconds=stopwatch.time(step, steps), **stopwatch.memory())


def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """All comparisons; prints a table of each and returns what there is to keep."""
    every = contenders(sys.executable, options.torch_python)

    def run(contender: Contender) -> Report:
        arguments = ["--folder", folder, "--warmup", options.warmup, "--steps", options.steps]
        return harness.run_worker("benchmarks.transformer", contender, arguments)

    made = run(every["prepare"])
    print(f"PyTorch and PEFT: adapted model exported in {made['seconds']:.1f} s, {made['nodes']} nodes", flush=True)
    exported = [run(every["export"]) for _ in range(options.rounds)]
    for name in exported[0]["parts"]:
        total = Spread.of([report["parts"][name]["total"] for report in exported])
        print(f"lora_graph: import, {name}, export in {total.median:.2f} s ({total.low:.2f}..{total.high:.2f})", end="")
        print(f", {exported[0]['nodes']} nodes", flush=True)
    steps = harness.alternate([every[name] for name in TRAINERS], run, options.rounds)
    difference = check_agreement({name: reports[0]["losses"] for name, reports in steps.items()})
    trained = harness.compare(steps, "PEFT")
    print(f"\ntraining step, losses agree within {difference:.0e}\n\n{harness.table(trained, 'PEFT')}\n", flush=True)
    ran = harness.alternate([every[f"latency-{name}"] for name in MODELS], run, options.rounds)
    latencies = harness.compare(ran, "latency-base")
    print(f"ONNX Runtime\n\n{harness.table(latencies, 'base')}\n", flush=True)
    return {
        "batch": [BATCH, LENGTH],
        "PEFT": made,
        "export": exported,
        "loss_difference": difference,
        "versions": {name: reports[0]["versions"] for name, reports in {**steps, **ran}.items()},
        "step": trained,
        "latency": latencies,
        "round_medians_ms": harness.round_medians({**steps, **ran}),
    }


def parse_options() -> argparse.Namespace:
    counts = {"steps": (8, "timed steps or runs per process"), "warmup": (3, "untimed steps before them")}
    parser = harness.parser("transformer", __doc__, counts, rounds=5)
    harness.add_torch(parser, "PyTorch, PEFT and transformers")
    parser.add_argument("--folder", type=Path, help="where to leave the models (a temporary folder)")
    return parser.parse_args()


def main() -> None:
    chosen = parse_options()
    if chosen.worker:
        work(chosen.worker, chosen.folder, chosen.warmup, chosen.steps)
        return
    harness.announce()
    with tempfile.TemporaryDirectory() as temporary:
        folder = chosen.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        try:
            results = measure(folder.resolve(), chosen)
        except harness.MissingPackageError as reason:
            raise SystemExit(f"cannot compare: {reason}") from reason
    harness.save("transformer", threads=1, **results)


if __name__ == "__main__":
    main()
