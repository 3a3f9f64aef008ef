"""How long optimizing takes, by the number of nodes: time per node should not grow with the size of the graph.

    python -m benchmarks.rewrite [NODES ...]

Three kinds of graphs go through the presets ``merge`` and ``deploy``: a chain, one value with many users, and layers
x W + (x A) B s + b with Relu. Every measurement has a process of its own, and is of processor time.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from benchmarks.harness import Contender, report, run_worker, save
from lora_graph import ops
from lora_graph.ir import Graph, Value
from lora_graph.rewrite import optimize_graph

NODES = (1_000, 10_000, 100_000)
PRESETS = ("merge", "deploy")
REPEATS = 3
"""Runs at every size: with more at the small ones their luck would look like growth."""
WIDTH, RANK = 8, 2


@dataclass(frozen=True)
class Row:
    """One measurement: nodes before and after, the median processor time of some runs, and that time by node."""

    kind: str
    preset: str
    nodes: int
    nodes_after: int
    seconds: float
    microseconds_per_node: float


def chain(nodes: int) -> Graph:
    x = h = ops.input("x", "float32", ("batch", WIDTH))
    for index in range(nodes - 2):
        h = ops.tanh(h) if index % 2 else h + 1.5
    return Graph((x,), {"y": h})


def fan(nodes: int) -> Graph:
    x = ops.input("x", "float32", ("batch", WIDTH))
    shared = x.exp()
    return Graph((x,), {f"y{index}": shared * float(index + 3) for index in range((nodes - 2) // 2)})


def adapted(nodes: int) -> Graph:
    x = h = ops.input("x", "float32", ("batch", WIDTH))
    for index in range(nodes // 10):
        h = ops.relu(adapted_product(h, f"{index}") + ops.parameter(f"{index}.bias", "float32", (WIDTH,)))
    return Graph((x,), {"y": h})


def adapted_product(h: Value, name: str) -> Value:
    shapes = {"weight": (WIDTH, WIDTH), "A": (WIDTH, RANK), "B": (RANK, WIDTH)}
    w, a, b = (ops.parameter(f"{name}.{label}", "float32", shape) for label, shape in shapes.items())
    return h @ w + (h @ a) @ b * 2.0


KINDS: dict[str, Callable[[int], Graph]] = {"chain": chain, "fan": fan, "adapted": adapted}


def measure(kind: str, preset: str, nodes: int) -> dict[str, Any]:
    """The median processor time of a few runs; what an earlier run built is dropped first, graph included."""
    seconds = []
    for _ in range(REPEATS):
        graph = KINDS[kind](nodes)
        before = len(graph)
        started = time.process_time()
        optimized = optimize_graph(graph, preset)
        seconds.append(time.process_time() - started)
        after = len(optimized.graph)
        del graph, optimized
    return {"nodes": before, "nodes_after": after, "seconds": median(seconds)}


def growth(rows: Sequence[Row]) -> dict[str, float]:
    """Time by node in the largest graph relative to that in the smallest."""
    by_kind: dict[str, list[Row]] = {}
    for row in rows:
        by_kind.setdefault(f"{row.kind}, {row.preset}", []).append(row)
    return {
        name: same[-1].microseconds_per_node / same[0].microseconds_per_node
        for name, same in by_kind.items()
        if len(same) > 1
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("sizes", nargs="*", type=int, default=NODES)
    parser.add_argument("--worker")
    arguments = parser.parse_args()
    if arguments.worker:
        kind, preset = arguments.worker.split("-")
        report(Contender(arguments.worker), **measure(kind, preset, *arguments.sizes))
        return
    rows = []
    print(f"{'graph':8} {'preset':7} {'nodes':>8} {'after':>8} {'seconds':>8} {'µs/node':>8}")
    for kind in KINDS:
        for preset in PRESETS:
            for nodes in arguments.sizes:
                found = run_worker("benchmarks.rewrite", Contender(f"{kind}-{preset}"), [nodes])
                before, after, seconds = found["nodes"], found["nodes_after"], found["seconds"]
                rows.append(Row(kind, preset, before, after, seconds, seconds / before * 1e6))
                print(
                    f"{kind:8} {preset:7} {before:8} {after:8} {seconds:8.2f} {seconds / before * 1e6:8.1f}", flush=True
                )
    ratios = growth(rows)
    for name, ratio in ratios.items():
        print(f"{name}: time by node grows by {ratio:.2f} from the smallest graph to the largest")
    save("rewrite", rows=rows, growth=ratios)


if __name__ == "__main__":
    main()
