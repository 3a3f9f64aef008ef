"""One training step of an MLP 768→3072→768 with LoRA rank 8 and Adam: a compiled graph against hand-written NumPy.

    python benchmarks/micro_interpret.py {graph,numpy,profile} BATCH

Run each contender in a process of its own, with one BLAS thread. Prints milliseconds a step, and the MiB that arrays
take at most during a step, beside state and data.
"""

from __future__ import annotations

import sys
import time
import tracemalloc
from collections import defaultdict
from collections.abc import Callable

import numpy as np

from lora_graph import ops
from lora_graph.autodiff import gradients
from lora_graph.interpret import compile_graph
from lora_graph.ir import Graph, Value
from lora_graph.ir.types import Array

WIDE, HIDDEN, RANK, SCALE, RATE = 768, 3072, 8, 2.0, 1e-3
FROZEN = {"W1": (WIDE, HIDDEN), "b1": (HIDDEN,), "W2": (HIDDEN, WIDE), "b2": (WIDE,)}
TRAINED = {"A1": (WIDE, RANK), "B1": (RANK, HIDDEN), "A2": (HIDDEN, RANK), "B2": (RANK, WIDE)}


def correct(decay: float, step: Value) -> Value:
    return 1.0 - (step * np.log(decay)).exp()


def step_graph() -> Graph:
    x, t = (ops.input(name, "float32", ("batch", WIDE)) for name in "xt")
    step = ops.input("step", "float32")
    p = {name: ops.parameter(name, "float32", shape, name in TRAINED) for name, shape in (FROZEN | TRAINED).items()}
    h = ops.relu(x @ p["W1"] + p["b1"] + x @ p["A1"] * SCALE @ p["B1"])
    y = h @ p["W2"] + p["b2"] + h @ p["A2"] * SCALE @ p["B2"]
    error = y - t
    loss = (error * error).mean()
    outputs = {"loss": loss}
    for name, gradient in zip(TRAINED, gradients(loss, [p[name] for name in TRAINED]), strict=True):
        m, v = (ops.parameter(f"{name}.{which}", "float32", TRAINED[name], False) for which in "mv")
        m = m * 0.9 + gradient * 0.1
        v = v * 0.999 + gradient * gradient * 0.001
        moved = p[name] - (m / correct(0.9, step)) / ((v / correct(0.999, step)).sqrt() + 1e-8) * RATE
        outputs |= {name: moved, f"{name}.m": m, f"{name}.v": v}
    return Graph((x, t, step), outputs)


def initial_state() -> dict[str, Array]:
    rng = np.random.default_rng(0)
    state = {n: rng.standard_normal(s, np.float32) / 32 for n, s in (FROZEN | TRAINED).items()}
    return state | {f"{n}.{which}": np.zeros(s, np.float32) for n, s in TRAINED.items() for which in "mv"}


def graph_step(frozen: dict[str, Array]) -> Callable[[dict[str, Array], Array, Array, int], Array]:
    program = compile_graph(step_graph(), fixed=FROZEN)
    program.fix(frozen)
    spare = {name: np.empty_like(array) for name, array in frozen.items() if name not in FROZEN}

    def step(state: dict[str, Array], x: Array, t: Array, number: int) -> Array:
        results = program.run({"x": x, "t": t, "step": float(number)}, state, out=spare)
        for name in spare:
            spare[name], state[name] = state[name], results[name]
        return results["loss"]

    return step


def numpy_step(state: dict[str, Array], x: Array, t: Array, number: int) -> Array:
    p = state
    xa = SCALE * (x @ p["A1"])
    h = x @ p["W1"]
    h += p["b1"]
    h += xa @ p["B1"]
    np.maximum(h, 0, out=h)
    ha = SCALE * (h @ p["A2"])
    y = h @ p["W2"]
    y += p["b2"]
    y += ha @ p["B2"]
    y -= t
    loss = np.mean(y * y)
    y *= np.float32(2 / y.size)
    dha = SCALE * (y @ p["B2"].T)
    dh = y @ p["W2"].T
    dh += dha @ p["A2"].T
    dh *= h > 0
    dxa = SCALE * (dh @ p["B1"].T)
    gradients = {"A1": x.T @ dxa, "B1": xa.T @ dh, "A2": h.T @ dha, "B2": ha.T @ y}
    for name, g in gradients.items():
        m, v = p[f"{name}.m"], p[f"{name}.v"]
        m *= np.float32(0.9)
        m += np.float32(0.1) * g
        v *= np.float32(0.999)
        v += np.float32(0.001) * (g * g)
        moved = np.sqrt(v / np.float32(1 - 0.999**number))
        moved += np.float32(1e-8)
        p[name] -= np.float32(RATE / (1 - 0.9**number)) * (m / moved)
    return loss


def profile(batch: int) -> None:
    """Seconds by op and shape, from the hook."""
    spent: dict[str, list[float]] = defaultdict(list)
    program = compile_graph(step_graph(), fixed=FROZEN)
    state = initial_state()
    program.fix(state)
    rng = np.random.default_rng(1)
    inputs = {n: rng.standard_normal((batch, WIDE), np.float32) for n in "xt"} | {"step": np.float32(1)}
    program.run(inputs, state)

    def hook(value: Value, seconds: float) -> None:
        spent[f"{value.op.name} {value.type} <- {', '.join(str(o.type) for o in value.operands)}"].append(seconds)

    for _ in range(10):
        program.run(inputs, state, hook=hook)
    best = {name: np.sort(seconds)[: len(seconds) // 10].sum() * 1e3 for name, seconds in spent.items()}
    for name, seconds in sorted(best.items(), key=lambda item: -item[1])[:30]:
        print(f"{seconds:8.3f} ms  {name}")
    print(f"{sum(best.values()):8.3f} ms  in all; {program.memory({'batch': batch}) / 2**20:.1f} MiB of buffers")


def main(contender: str, batch: int) -> None:
    rng = np.random.default_rng(1)
    x, t = (rng.standard_normal((batch, WIDE), np.float32) for _ in range(2))
    state = initial_state()
    step = graph_step(state) if contender == "graph" else numpy_step
    times = []
    for number in range(1, 41):
        start = time.perf_counter()
        loss = step(state, x, t, number)
        times.append(time.perf_counter() - start)
    tracemalloc.start()
    step = graph_step(state) if contender == "graph" else numpy_step
    for number in range(41, 44):
        step(state, x, t, number)
    peak = tracemalloc.get_traced_memory()[1] / 2**20
    low, middle = np.min(times) * 1e3, np.median(times) * 1e3
    print(f"{contender} {batch}: {low:.2f} ms at best, median {middle:.2f}, {peak:.1f} MiB, loss {float(loss):.6f}")


if __name__ == "__main__":
    profile(int(sys.argv[2])) if sys.argv[1] == "profile" else main(sys.argv[1], int(sys.argv[2]))
