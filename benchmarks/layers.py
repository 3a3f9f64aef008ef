"""The time of layers, forward and backward, against PyTorch eager.

    python -m benchmarks.layers --torch-python PATH

A call gives the layer's output and the gradients of all its operands, the input included: in lora_graph as one compiled
graph that its own differentiation made, in PyTorch as a forward and a backward pass. Contenders get the same arrays and
first have to agree on every result; where the results differ by more than 1e-4 of their size nothing is measured.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from benchmarks import harness, tables
from benchmarks.recurrent import Recurrence

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[Any]
    Step = Callable[[], Mapping[str, Array]]
    """One forward and backward pass; returns the output and the gradients by name."""

AGREEMENT = 1e-4
REFERENCE = "torch"


@dataclass(frozen=True)
class Workload:
    """A layer at one size: ``steps`` makes the pass to be timed, by contender, and ``aim`` is the ratio hoped for."""

    title: str
    steps: Mapping[str, Callable[[], Step]] = field(repr=False)
    aim: float | None = None


@dataclass(frozen=True)
class Convolution:
    """A 2-D convolution with bias over square images, padded so that stride 1 keeps their size."""

    batch: int = 16
    channels: int = 64
    outputs: int = 64
    size: int = 32
    kernel: int = 3
    stride: int = 1
    group: int = 1

    def arrays(self) -> dict[str, Array]:
        """x, w, b and the cotangent c of the output."""
        import numpy as np

        rng = np.random.default_rng(0)
        result = (self.size - 1) // self.stride + 1
        fan_in = self.channels // self.group * self.kernel**2
        draw: Callable[..., Array] = lambda *shape: rng.standard_normal(shape, np.float32)  # noqa: E731
        return {
            "x": draw(self.batch, self.channels, self.size, self.size),
            "w": draw(self.outputs, self.channels // self.group, self.kernel, self.kernel) * np.float32(fan_in**-0.5),
            "b": draw(self.outputs),
            "c": draw(self.batch, self.outputs, result, result),
        }

    def lora_graph(self) -> Step:
        import lora_graph as lg
        from lora_graph.autodiff import gradients
        from lora_graph.interpret import compile_graph

        arrays = self.arrays()
        x = lg.ops.input("x", "float32", ("batch", self.channels, "height", "width"))
        w, b = (lg.ops.parameter(name, "float32", arrays[name].shape) for name in "wb")
        y = lg.ops.conv(x, w, b, strides=self.stride, pads=self.kernel // 2, group=self.group)
        c = lg.ops.input("c", "float32", y.shape)
        dx, dw, db = gradients(y, [x, w, b], c)
        program = compile_graph(lg.Graph((x, c), {"y": y, "dx": dx, "dw": dw, "db": db}))
        inputs, state = {n: arrays[n] for n in "xc"}, {n: arrays[n] for n in "wb"}
        return lambda: program.run(inputs, state)

    def torch(self) -> Step:
        import torch

        torch.set_num_threads(1)
        x, w, b, c = (torch.from_numpy(array) for array in self.arrays().values())
        operands = [tensor.requires_grad_() for tensor in (x, w, b)]

        def step() -> Mapping[str, Array]:
            y = torch.nn.functional.conv2d(*operands, self.stride, self.kernel // 2, 1, self.group)
            found = torch.autograd.grad(y, operands, c)
            return dict(zip(("y", "dx", "dw", "db"), (t.detach().numpy() for t in (y, *found)), strict=True))

        return step

    def workload(self, aim: float | None = None) -> Workload:
        kind = {1: "", self.channels: ", depthwise"}.get(self.group, f", {self.group} groups")
        title = f"convolution {self.kernel}x{self.kernel}, {self.channels}->{self.outputs} channels{kind}, "
        title += f"{self.size}x{self.size}, stride {self.stride}, batch {self.batch}"
        return Workload(title, {"torch": self.torch, "lora_graph": self.lora_graph}, aim)


def recurrent(size: Recurrence, aim: float | None = None) -> Workload:
    return Workload(size.title, {"torch": size.torch, "lora_graph": size.lora_graph}, aim)


WORKLOADS = {
    "convolution": Convolution().workload(aim=1.5),
    "convolution-stride2": Convolution(stride=2).workload(),
    "convolution-depthwise": Convolution(group=64).workload(),
    "convolution-small": Convolution(channels=8, outputs=16, size=8).workload(),
    "lstm": recurrent(Recurrence(), aim=1.2),
    "lstm-small": recurrent(Recurrence(inputs=16, hidden=32, steps=28, batch=16)),
}


def contenders(python: str, torch_python: str) -> dict[str, harness.Contender]:
    """The contenders by name, run by ``python`` or, where it is PyTorch, by ``torch_python``."""
    return {
        "torch": harness.Contender("torch", ("numpy", "torch"), torch_python),
        "lora_graph": harness.Contender("lora_graph", ("numpy", "lora_graph"), python),
    }


def fingerprint(results: Mapping[str, Array]) -> dict[str, tuple[float, float]]:
    """The norm of each array, and its direction as seen along a random one."""
    import numpy as np

    rng = np.random.default_rng(1)
    prints = {}
    for name, array in results.items():
        wide = np.asarray(array, np.float64)
        norm = float(np.linalg.norm(wide))
        prints[name] = norm, float(np.vdot(wide, rng.standard_normal(wide.shape))) / norm
    return prints


def work(name: str, workload: str, warmup: int, steps: int) -> None:
    """One contender in this process: what it computes and the seconds of each call."""
    contender = contenders(sys.executable, sys.executable)[name]
    harness.require(contender)
    for package in contender.needs:
        importlib.import_module(package)
    stopwatch = harness.Stopwatch()
    step = WORKLOADS[workload].steps[name]()
    prints = fingerprint(step())
    for _ in range(warmup):
        step()
    seconds = stopwatch.time(step, steps)
    harness.report(contender, fingerprint=prints, seconds=seconds, **stopwatch.memory())


def check_agreement(prints: Mapping[str, Mapping[str, tuple[float, float]]]) -> float:
    """The largest difference to the first contender, relative to the size of a result; RuntimeError if too large."""
    (first, expected), *others = prints.items()
    worst = 0.0
    for name, found in others:
        for key, (norm, along) in expected.items():
            difference = max(abs(found[key][0] - norm) / norm, abs(found[key][1] - along))
            if not difference <= AGREEMENT:  # as it is for NaN, too
                raise RuntimeError(f"{key} of {name} and {first} differ by {difference:.1e}: not comparable")
            worst = max(worst, difference)
    return worst


def measure(name: str, chosen: list[harness.Contender], options: argparse.Namespace) -> dict[str, object]:
    """One workload: agreement first, then the rounds; prints a table and returns what there is to keep."""
    workload = WORKLOADS[name]

    def run(contender: harness.Contender, steps: int) -> harness.Report:
        arguments = ["--workloads", name, "--warmup", options.warmup, "--steps", steps]
        return harness.run_worker("benchmarks.layers", contender, arguments)

    firsts, skipped = harness.available(chosen, lambda contender: run(contender, 0))
    difference = check_agreement({contender.name: report["fingerprint"] for contender, report in firsts.items()})
    reports = harness.alternate(firsts, lambda contender: run(contender, options.steps), options.rounds)
    reference = REFERENCE if REFERENCE in reports else next(iter(reports))
    rows = tables.compare(reports, reference)
    aim = f", at most {workload.aim} times as long as torch hoped for" if workload.aim else ""
    print(f"\n{workload.title}{aim}; results agree within {difference:.0e}\n", flush=True)
    print(f"{tables.table(rows, reference)}\n", flush=True)
    return {
        "workload": name,
        "title": workload.title,
        "aim": workload.aim,
        "difference": difference,
        "skipped": skipped,
        "versions": {contender.name: report["versions"] for contender, report in firsts.items()},
        "rows": rows,
        "round_medians_ms": tables.round_medians(reports),
    }


def parse_options() -> argparse.Namespace:
    counts = {"steps": (30, "timed calls per process"), "warmup": (5, "untimed calls before them")}
    parser = harness.parser("layers", __doc__, counts)
    harness.add_torch(parser)
    parser.add_argument("--workloads", nargs="+", choices=WORKLOADS, default=list(WORKLOADS), help="which to measure")
    return parser.parse_args()


def main() -> None:
    chosen = parse_options()
    if chosen.worker:
        work(chosen.worker, chosen.workloads[0], chosen.warmup, chosen.steps)
        return
    harness.announce()
    every = list(contenders(sys.executable, chosen.torch_python).values())
    results = [measure(name, every, chosen) for name in chosen.workloads]
    harness.save("layers", threads=1, results=results)


if __name__ == "__main__":
    main()
