"""The floor of a training step: how long its matrix products alone take at the best rate of this machine.

Each product of the step (benchmarks.products) is run by itself, on contiguous arrays and again and again, by NumPy's
BLAS, ONNX Runtime (a frozen right operand being a weight of the model, which it may pack) and PyTorch, in the same
rounds as the step. The floor is the sum of the shortest times: what a step would take if it did nothing else and each
of its products were run by whoever runs it fastest. On the CPU that is time of the processor, which other work on the
machine does not add to, and so is the time of the steps that it is compared with.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks import harness
from benchmarks.harness import Contender, Report
from benchmarks.products import Product, Products, from_list, listed

MODULE = "benchmarks.floor"
TRIES = 7
LEAST_SECONDS = 1e-3
"""Of one measurement; what takes less is repeated in it."""

Call = Callable[[], object]


def numpy_call(product: Product) -> Call:
    import numpy as np

    a, b = _operands(product)
    out = np.matmul(a, b)
    return lambda: np.matmul(a, b, out=out)


def onnxruntime_call(product: Product) -> Call:
    """A MatMul in a session, on arrays that are bound to it."""
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    a, b = _operands(product)
    given = {"a": a} if product.frozen else {"a": a, "b": b}
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, array.shape) for name, array in given.items()]
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    weights = [numpy_helper.from_array(b, "b")] if product.frozen else []
    graph = helper.make_graph([helper.make_node("MatMul", ["a", "b"], ["y"])], "product", infos, [result], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = harness.threads()
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    values = {name: onnxruntime.OrtValue.ortvalue_from_numpy(array) for name, array in given.items()}
    out = onnxruntime.OrtValue.ortvalue_from_numpy(a @ b)
    for name, value in values.items():
        binding.bind_ortvalue_input(name, value)
    binding.bind_ortvalue_output("y", out)
    held = values, out  # the binding itself does not keep them alive
    return lambda: (session.run_with_iobinding(binding), held)


def torch_call(product: Product, device: str = "cpu") -> Call:
    import torch

    torch.set_num_threads(harness.threads())
    a, b = (torch.from_numpy(array).to(device) for array in _operands(product))
    out = a @ b
    if device == "cpu":
        return lambda: torch.matmul(a, b, out=out)
    return lambda: (torch.matmul(a, b, out=out), torch.cuda.synchronize())


def torch_cuda_call(product: Product) -> Call:
    return torch_call(product, "cuda")


def _operands(product: Product) -> list[Any]:
    import numpy as np

    rng = np.random.default_rng(0)
    stack = () if product.stack == 1 else (product.stack,)
    shapes = (product.rows, product.inner), (product.inner, product.columns)
    return [rng.standard_normal((*stack, *shape), np.float32) for shape in shapes]


CALLS: dict[str, Callable[[Product], Call]] = {
    "floor-numpy": numpy_call,
    "floor-onnxruntime": onnxruntime_call,
    "floor-torch": torch_call,
    "floor-cuda": torch_cuda_call,
}


def contenders(python: str, torch_python: str) -> dict[str, Contender]:
    """Who multiplies matrices, by name."""
    listed = [
        Contender("floor-numpy", ("numpy",), python),
        Contender("floor-onnxruntime", ("numpy", "onnx", "onnxruntime"), python),
        Contender("floor-torch", ("numpy", "torch"), torch_python),
        Contender("floor-cuda", ("numpy", "torch"), torch_python),
    ]
    return {contender.name: contender for contender in listed}


def contenders_on(provider: str, python: str, torch_python: str) -> list[Contender]:
    """Those of them that run on ``provider``."""
    every = contenders(python, torch_python)
    return [contender for name, contender in every.items() if (name == "floor-cuda") == (provider == "cuda")]


def run(contender: Contender, products: Products) -> Report:
    """The shortest times of ``products`` that one contender has now."""
    return harness.run_worker(MODULE, contender, ["--products", json.dumps(listed(products))])


def shortest(call: Call, clock: Callable[[], float] = time.process_time) -> float:
    """Seconds of a call: the least of several measurements, each of as many calls as take a millisecond."""
    call()
    started = clock()
    call()
    number = max(1, round(LEAST_SECONDS / max(clock() - started, LEAST_SECONDS / 1000)))
    best = float("inf")
    for _ in range(TRIES):
        started = clock()
        for _ in range(number):
            call()
        best = min(best, (clock() - started) / number)
    return best


def best_of(reports: Mapping[str, Sequence[Report]], products: Products) -> list[dict[Product, tuple[float, str]]]:
    """For each round the shortest time of each product, in seconds, and who had it."""
    rounds = zip(*reports.values(), strict=True)
    return [
        {
            product: min((report["seconds"][index], name) for name, report in zip(reports, round_, strict=True))
            for index, product in enumerate(products)
        }
        for round_ in rounds
    ]


def milliseconds(best: Mapping[Product, tuple[float, str]], products: Products) -> float:
    """All ``products`` at their shortest times."""
    return sum(best[product][0] * count for product, count in products.items()) * 1e3


def describe(bests: Sequence[Mapping[Product, tuple[float, str]]], products: Products) -> str:
    """The floor in words: of the round in the middle, and its parts."""
    ordered = sorted(bests, key=lambda best: milliseconds(best, products))
    middle = ordered[len(ordered) // 2]
    lines = []
    for title, frozen in (("with frozen weights", True), ("others", False)):
        part = {product: count for product, count in products.items() if product.frozen == frozen}
        if part:
            took = milliseconds(middle, part)
            work = sum(product.flops * count for product, count in part.items()) / 1e9
            who = sorted({name.removeprefix("floor-") for product in part for name in [middle[product][1]]})
            lines.append(
                f"  {sum(part.values())} products {title}: {work:.2f} GFLOP in {took:.2f} ms, "
                f"{work / took * 1e3:.0f} GFLOP/s ({', '.join(who)})"
            )
    low, high = (milliseconds(best, products) for best in (ordered[0], ordered[-1]))
    return "\n".join([f"floor: {milliseconds(middle, products):.2f} ms ({low:.2f}..{high:.2f})", *lines])


def main() -> None:
    made = argparse.ArgumentParser(prog=f"python -m {MODULE}", description="One contender, run by other benchmarks.")
    made.add_argument("--worker", required=True, choices=CALLS)
    made.add_argument("--products", required=True, type=json.loads)
    chosen = made.parse_args()
    contender = contenders(sys.executable, sys.executable)[chosen.worker]
    harness.require(contender)
    if chosen.worker == "floor-cuda":
        harness.require_cuda(contender)
    clock = time.perf_counter if chosen.worker == "floor-cuda" else time.process_time
    seconds = [shortest(CALLS[chosen.worker](product), clock) for product in from_list(chosen.products)]
    harness.report(contender, seconds=seconds)


if __name__ == "__main__":
    main()
