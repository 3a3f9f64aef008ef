"""One training step of a dense layer 4096 × 4096 with LoKr, as PEFT's LoKrConfig makes it by default.

    python -m benchmarks.lokr --torch-python PATH

y = x W + b + s x (A ⊗ B C)ᵀ with frozen W and b, A ``[64, 64]``, B ``[64, 8]`` and C ``[8, 64]``, the mean of (y - t)²
as loss, and Adam on A, B and C. PEFT multiplies the change of the weight out, ``[4096, 4096]``, at each step.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks import floor, harness, mlp_torch
from benchmarks.harness import Contender, Report
from benchmarks.mlp import Array, Step
from benchmarks.mlp_contenders import ON_CUDA, engines
from benchmarks.mlp_lora_graph import training_step
from benchmarks.products import from_list, listed, products_of_step
from benchmarks.rounds import compare_training, train_here

if TYPE_CHECKING:
    from lora_graph.layers.layer import Layer

MODULE = "benchmarks.lokr"
BATCH, WIDTH, RANK = 64, 4096, 8
PARAMETERS = ("A", "B_left", "B_right")
"""What lora_graph calls what trains."""
IN_PEFT = dict(zip(PARAMETERS, ("lokr_w1", "lokr_w2_a", "lokr_w2_b"), strict=True))
COUNT = Contender("products", ("numpy", "lora_graph"))


def initial(name: str, width: int = WIDTH) -> Array:
    """A parameter before the first step. A is not zero, so that every gradient counts at once."""
    root = int(width**0.5)
    shape, scale = {
        "weight": ((width, width), width**-0.5),
        "bias": ((width,), 0.1),
        "A": ((root, root), 0.1),
        "B_left": ((root, RANK), RANK**-0.5),
        "B_right": ((RANK, root), root**-0.5),
    }[name]
    seed = ("weight", "bias", *PARAMETERS).index(name)
    return np.random.default_rng(seed).standard_normal(shape, np.float32) * np.float32(scale)


def data(width: int = WIDTH) -> tuple[Array, Array]:
    """One batch of inputs and of targets."""
    x, t = np.random.default_rng(9).standard_normal((2, BATCH, width), np.float32)
    return x, t


def model(width: int = WIDTH) -> Layer:
    """The layer in lora_graph."""
    import lora_graph as lg

    adapter = lg.LoKrAdapter(lg.DenseLayer(width, width), RANK, RANK, decompose_factor=-1)
    for name in ("weight", "bias"):
        adapter.set_parameter(f"base.{name}", initial(name, width))
    for name in PARAMETERS:
        adapter.set_parameter(f"lokr.{name}", initial(name, width))
    return adapter


def peft_step(provider: str, width: int = WIDTH) -> Step:
    """The layer in PyTorch, with the LoKr of Hugging Face PEFT."""
    import torch
    from peft import LoKrConfig, get_peft_model

    base = torch.nn.Sequential(mlp_torch.linear(initial("weight", width), initial("bias", width)))
    adapted = get_peft_model(base, LoKrConfig(r=RANK, alpha=RANK, target_modules=["0"]))
    layer = adapted.base_model.model[0]
    for name, theirs in IN_PEFT.items():
        held = getattr(layer, theirs)["default"]
        held.data.copy_(torch.from_numpy(initial(name, width)))
    return mlp_torch.training(adapted, provider)


def step(name: str, provider: str = "cpu", width: int = WIDTH) -> Step:
    """What a contender calls for each step."""
    if name == "peft":
        return peft_step(provider, width)
    training = training_step(model(width), name, provider)
    return lambda x, t: float(training.run(x, t))


def contenders(python: str, torch_python: str) -> dict[str, Contender]:
    listed = [Contender("peft", ("numpy", "torch", "peft"), torch_python), *engines(python)]
    return {contender.name: contender for contender in listed if not contender.name.endswith("-low")}


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """The table; returns what there is to keep."""
    given = ["--provider", options.provider, "--warmup", options.warmup]

    def run(contender: Contender, timed: bool) -> Report:
        return harness.run_worker(MODULE, contender, [*given, "--steps", options.steps if timed else 0])

    every = contenders(sys.executable, options.torch_python)
    chosen = [contender for name, contender in every.items() if options.provider == "cpu" or name in ON_CUDA]
    products = from_list(run(COUNT, False)["products"])
    floors = floor.contenders_on(options.provider, sys.executable, options.torch_python)
    return compare_training(f"LoKr {WIDTH} × {WIDTH}", chosen, run, options.rounds, "peft", products, floors)


def main() -> None:
    counts = {"steps": (8, "timed steps per process"), "warmup": (3, "untimed steps before them")}
    parser = harness.parser("lokr", __doc__, counts, rounds=5)
    harness.add_torch(parser, "PyTorch and PEFT")
    harness.add_provider(parser)
    chosen = parser.parse_args()
    if chosen.worker == COUNT.name:
        harness.report(COUNT, products=listed(products_of_step(training_step(model()), *data())))
    elif chosen.worker:
        contender = contenders(sys.executable, sys.executable)[chosen.worker]
        x, t = data()
        train_here(
            contender,
            lambda: partial(step(contender.name, chosen.provider), x, t),
            chosen.warmup,
            chosen.steps,
            chosen.provider,
        )
    else:
        harness.announce()
        harness.save(harness.on("lokr", chosen.provider), threads=1, **measure(chosen))


if __name__ == "__main__":
    main()
