"""LoRA on a whole model: training, exporting and running the encoder of benchmarks.encoder, against PyTorch and PEFT.

    python -m benchmarks.transformer --torch-python PATH [--provider cuda]

PyTorch first exports the encoder and a PEFT adapter of rank 8 for each of its 36 linear layers; that ONNX file and that
adapter are what lora_graph starts from. Measured are a training step of each (Adam on the mean squared error; losses
that differ by more than 1e-4 end the comparison) beside its floor (benchmarks.floor), the way from a base to an
exported adapted model (once imports are done, and in a new process as a whole), and the latency of the exported models
in ONNX Runtime. On a GPU it is the training step alone.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import encoder, floor, harness, tables
from benchmarks.harness import Contender, Report
from benchmarks.mlp_contenders import ON_CUDA, engines
from benchmarks.mlp_lora_graph import ENGINES, training_step
from benchmarks.products import from_list, listed, products_of_step
from benchmarks.rounds import compare_training, train_here

if TYPE_CHECKING:
    from lora_graph.layers.layer import Layer

MODULE = "benchmarks.transformer"
BATCH, LENGTH = 16, 64
MODELS = {"base": "base.onnx", "PEFT": "peft.onnx", "lora_graph": "adapted.onnx"}
"""The models whose latency is compared, by what made them."""


Trainer = Callable[[Path, str], Callable[[], float]]
"""What trains the model of a folder on a provider: one step, which returns the loss before it."""


def lora_graph_trainer(name: str) -> Trainer:
    def trainer(folder: Path, provider: str) -> Callable[[], float]:
        inputs, target = encoder.data(BATCH, LENGTH)
        step = training_step(adapted(folder), name, provider)
        return lambda: step.run(inputs, target)

    return trainer


def adapted(folder: Path) -> Layer:
    """The imported encoder with the adapter of PEFT."""
    import lora_graph as lg

    return lg.load_peft(lg.load_onnx(folder / MODELS["base"]), folder / "peft").train()


def train_peft(folder: Path, provider: str) -> Callable[[], float]:
    return encoder.torch_step(folder / "peft", *encoder.data(BATCH, LENGTH), provider)


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


TRAINERS: dict[str, Trainer] = {"peft": train_peft, **{name: lora_graph_trainer(name) for name in ENGINES}}


def contenders(python: str, torch_python: str) -> dict[str, Contender]:
    """The contenders by name; what needs PyTorch is run by ``torch_python``."""
    torch = ("numpy", "torch", "transformers", "peft")
    own = ("numpy", "onnx", "lora_graph")
    every = [
        Contender("prepare", (*torch, "onnx", "onnxscript"), torch_python),
        Contender("peft", torch, torch_python),
        *engines(python),
        Contender("products", own, python),
        Contender("export", own, python),
        *(Contender(f"latency-{name}", ("numpy", "onnxruntime"), python) for name in MODELS),
    ]
    return {contender.name: contender for contender in every}


def work(name: str, options: argparse.Namespace) -> None:
    """One contender in this process."""
    contender = contenders(sys.executable, sys.executable)[name]
    harness.require(contender)
    folder: Path = options.folder
    if name == "prepare":
        harness.report(contender, **encoder.export(folder))
    elif name == "products":
        found = products_of_step(training_step(adapted(folder)), *encoder.data(BATCH, LENGTH))
        harness.report(contender, products=listed(found))
    elif name == "export":
        harness.report(contender, **export(folder))
    elif name.startswith("latency-"):
        harness.report(contender, **latency(folder / MODELS[name.removeprefix("latency-")], options.steps))
    else:
        trainer = TRAINERS[name]
        train_here(
            contender,
            lambda: trainer(folder, options.provider),
            options.warmup,
            options.steps,
            options.provider,
        )


def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """All comparisons; prints a table of each and returns what there is to keep."""
    every = contenders(sys.executable, options.torch_python)

    def run(contender: Contender, timed: bool = True) -> Report:
        arguments = ["--folder", folder, "--provider", options.provider, "--warmup", options.warmup]
        return harness.run_worker(MODULE, contender, [*arguments, "--steps", options.steps if timed else 0])

    made = run(every["prepare"])
    print(f"PyTorch and PEFT: adapted model exported in {made['seconds']:.1f} s, {made['nodes']} nodes", flush=True)
    products = from_list(run(every["products"])["products"])
    floors = floor.contenders_on(options.provider, sys.executable, options.torch_python)
    chosen = [every[name] for name in TRAINERS if options.provider == "cpu" or name in ON_CUDA]
    step = compare_training("training step", chosen, run, options.rounds, "peft", products, floors)
    found = {"batch": [BATCH, LENGTH], "PEFT": made, "step": step}
    return found if options.provider == "cuda" else {**found, **deployment(every, run, options.rounds)}


def deployment(every: Mapping[str, Contender], run: Callable[[Contender], Report], rounds: int) -> dict[str, Any]:
    """The way to an exported model, and the latency of what was exported."""
    exported = [run(every["export"]) for _ in range(rounds)]
    for name in exported[0]["parts"]:
        total = tables.Spread.of([report["parts"][name]["total"] for report in exported])
        print(f"lora_graph: import, {name}, export in {total.median:.2f} s ({total.low:.2f}..{total.high:.2f})", end="")
        print(f", {exported[0]['nodes']} nodes", flush=True)
    ran = harness.alternate([every[f"latency-{name}"] for name in MODELS], run, rounds)
    latencies = tables.compare(ran, "latency-base")
    print(f"\nONNX Runtime\n\n{tables.table(latencies, 'base')}\n", flush=True)
    versions = {name: reports[0]["versions"] for name, reports in ran.items()}
    return {"export": exported, "latency": latencies, "latency_versions": versions}


def parse_options() -> argparse.Namespace:
    counts = {"steps": (4, "timed steps or runs per process"), "warmup": (2, "untimed steps before them")}
    parser = harness.parser("transformer", __doc__, counts, rounds=3)
    harness.add_torch(parser, "PyTorch, PEFT and transformers")
    harness.add_provider(parser)
    parser.add_argument("--folder", type=Path, help="where to leave the models (a temporary folder)")
    return parser.parse_args()


def main() -> None:
    chosen = parse_options()
    if chosen.worker:
        work(chosen.worker, chosen)
        return
    harness.announce()
    with tempfile.TemporaryDirectory() as temporary:
        folder = chosen.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        try:
            results = measure(folder.resolve(), chosen)
        except harness.UnavailableError as reason:
            raise SystemExit(f"cannot compare: {reason}") from reason
    harness.save(harness.on("transformer", chosen.provider), threads=1, **results)


if __name__ == "__main__":
    main()
