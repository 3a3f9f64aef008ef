"""How long the diff of two transformers takes, by the number of nodes: time per node should not grow with the graph.

    python -m benchmarks.inspect_diff [NODES ...]

Each graph of about that many nodes is compared with itself under other names, with other weights, with LoRA beside the
queries and values of every layer, and with its normalizations spelled out. Measured is processor time.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

import lora_graph as lg
from benchmarks.harness import save
from lora_graph import ops
from lora_graph.inspect.inspected import Inspected
from lora_graph.ir import Graph, Value
from lora_graph.ir.types import Array

NODES = (1_000, 10_000, 100_000)
NODES_A_LAYER = 34
REPEATS = 3
WIDTH, RANK = 16, 2


@dataclass(frozen=True)
class Row:
    """One measurement: what the graph was compared with, nodes of both, what was found, and the processor time."""

    other: str
    nodes: tuple[int, int]
    found: str
    seconds: float
    microseconds_per_node: float


class Transformer:
    """Layers of attention and an MLP; ``lora`` and ``spelled`` say how they are written, ``seed`` draws the weights."""

    def __init__(self, layers: int, *, seed: int = 0, prefix: str = "", lora: bool = False, spelled: bool = False):
        self._rng, self._prefix, self._lora, self._spelled = np.random.default_rng(seed), prefix, lora, spelled
        self.state: dict[str, Array] = {}
        x = h = ops.input("x", "float32", ("batch", "time", WIDTH))
        for layer in range(layers):
            h = self._layer(h, f"{prefix}{layer}")
        self.graph = Graph((x,), {"y": h})

    def _layer(self, h: Value, name: str) -> Value:
        seen = self._normalized(h, f"{name}.norm")
        q, k, v = (self._dense(seen, f"{name}.{label}", WIDTH, WIDTH) for label in ("query", "key", "value"))
        weights = ops.softmax((q @ k.swapaxes(1, 2)) * 0.25)
        h = h + self._dense(weights @ v, f"{name}.out", WIDTH, WIDTH)
        return h + self._dense(ops.gelu(self._dense(h, f"{name}.up", WIDTH, 32)), f"{name}.down", 32, WIDTH)

    def _normalized(self, h: Value, name: str) -> Value:
        scale = self._drawn(name, WIDTH)
        if not self._spelled:
            return ops.layer_normalization(h, scale)
        centred = h - h.mean(axis=-1, keepdims=True)
        return centred / ((centred * centred).mean(axis=-1, keepdims=True) + 1e-5).sqrt() * scale

    def _dense(self, x: Value, name: str, size: int, out: int) -> Value:
        y = x @ self._drawn(f"{name}.weight", size, out)
        bias = self._drawn(f"{name}.bias", out)
        if self._lora and name.endswith(("query", "value")):
            numbers = np.random.default_rng(1)
            a, b = (self._parameter(f"{name}.{label}", numbers.normal(size=shape)) for label, shape in PAIR.items())
            y = y + (x @ a) @ b
        return y + bias

    def _drawn(self, name: str, *shape: int) -> Value:
        return self._parameter(name, self._rng.normal(size=shape))

    def _parameter(self, name: str, array: Array) -> Value:
        self.state[name] = array.astype(np.float32)
        return ops.parameter(name, "float32", array.shape)


PAIR = {"A": (WIDTH, RANK), "B": (RANK, WIDTH)}
OTHERS: dict[str, dict[str, object]] = {
    "renamed": {"prefix": "model."},
    "other weights": {"seed": 2},
    "LoRA": {"lora": True},
    "spelled out": {"spelled": True},
}


def inspected(model: Transformer) -> Inspected:
    return Inspected.of(model.graph, state=model.state)


def measure(nodes: int, other: str) -> Row:
    """The diff of a transformer of about ``nodes`` nodes and another one of as many layers."""
    layers = max(1, nodes // NODES_A_LAYER)
    a = inspected(Transformer(layers))
    b = inspected(Transformer(layers, **OTHERS[other]))  # type: ignore[arg-type]
    seconds = []
    for _ in range(REPEATS):
        started = time.process_time()
        report = lg.diff(a, b)
        seconds.append(time.process_time() - started)
    both = len(a.graph), len(b.graph)
    return Row(other, both, report.summary, median(seconds), median(seconds) / sum(both) * 1e6)


def main(arguments: Sequence[str] | None = None) -> None:
    made = argparse.ArgumentParser(prog="python -m benchmarks.inspect_diff", description=(__doc__ or "").split("\n")[0])
    made.add_argument("nodes", type=int, nargs="*", default=NODES, help=f"sizes of graphs ({NODES})")
    rows = []
    for nodes in made.parse_args(arguments).nodes:
        for other in OTHERS:
            row = measure(nodes, other)
            rows.append(row)
            print(
                f"{row.nodes[0]:>7} {row.other:<14} {row.seconds:7.2f} s  {row.microseconds_per_node:6.1f} µs a node"
                f"  {row.found}",
                flush=True,
            )
    save("inspect_diff", rows=rows)


if __name__ == "__main__":
    main()
