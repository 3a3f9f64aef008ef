"""The time and memory of one training step of an MLP 768 → 3072 → 768 with LoRA of rank 8 on both layers.

    python -m benchmarks.step --torch-python PATH --onnxsim-python PATH

Contenders first run a few steps untimed; where their losses differ by more than 1e-4 nothing is measured. Memory is
what the first steps allocate at most beyond the network and its batch (all buffers and temporaries of NumPy; those of
PyTorch and ONNX Runtime cannot be traced), and the largest resident set of the process, as a whole and above what it
was once the packages were imported (which includes making the network, and modules loaded on first use). The floor is
that of benchmarks.floor.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from typing import Any

from benchmarks import floor, harness, mlp_contenders
from benchmarks.harness import Contender, Report
from benchmarks.mlp import Problem
from benchmarks.mlp_contenders import ON_CUDA, STEPS
from benchmarks.mlp_lora_graph import lora_graph_model, training_step
from benchmarks.products import from_list, listed, products_of_step
from benchmarks.rounds import compare_training, train_here

REFERENCES = {"cpu": "numpy", "cuda": "torch"}
TRACED = ("numpy", "lora_graph-numpy", "lora_graph-numpy-low")
"""The contenders whose memory Python knows of."""
COUNT = Contender("products", ("numpy", "lora_graph"))


def count(problem: Problem) -> None:
    """The products of a step, as a report."""
    found = products_of_step(training_step(lora_graph_model(problem)), *problem.data())
    harness.report(COUNT, products=listed(found))


def measure(batch: int, options: argparse.Namespace) -> dict[str, Any]:
    """One batch size; prints a table and returns what there is to keep."""
    sizes = ["--batch", batch, "--provider", options.provider, "--warmup", options.warmup]

    def run(contender: Contender, timed: bool) -> Report:
        return harness.run_worker("benchmarks.step", contender, [*sizes, "--steps", options.steps if timed else 0])

    every = mlp_contenders.contenders(sys.executable, options.torch_python, options.onnxsim_python)
    products = from_list(run(COUNT, False)["products"])
    floors = floor.contenders_on(options.provider, sys.executable, options.torch_python)
    chosen = [every[name] for name in options.contenders if options.provider == "cpu" or name in ON_CUDA]
    reference = REFERENCES[options.provider]
    return compare_training(f"batch {batch}", chosen, run, options.rounds, reference, products, floors)


def parse_options() -> argparse.Namespace:
    counts = {"steps": (15, "timed steps per process"), "warmup": (5, "untimed steps before them")}
    parser = harness.parser("step", __doc__, counts, rounds=3)
    harness.add_torch(parser, "PyTorch and PEFT")
    harness.add_provider(parser)
    parser.add_argument("--onnxsim-python", default=sys.executable, help="an interpreter that has onnxsim")
    parser.add_argument("--batch", type=int, nargs="+", default=[64, 512], help="batch sizes (64 and 512)")
    parser.add_argument("--contenders", nargs="+", choices=STEPS, default=list(STEPS), help="which to run")
    return parser.parse_args()


def main() -> None:
    chosen = parse_options()
    if chosen.worker:
        problem = Problem(chosen.batch[0], provider=chosen.provider)
        if chosen.worker == COUNT.name:
            count(problem)
        else:
            contender = mlp_contenders.contenders(sys.executable, sys.executable, sys.executable)[chosen.worker]
            x, t = problem.data()
            train_here(
                contender,
                lambda: partial(STEPS[contender.name](problem), x, t),
                chosen.warmup,
                chosen.steps,
                chosen.provider,
                traced=contender.name in TRACED,
            )
        return
    harness.announce()
    results = [measure(batch, chosen) for batch in chosen.batch]
    harness.save(harness.on("step", chosen.provider), threads=1, results=results)


if __name__ == "__main__":
    main()
