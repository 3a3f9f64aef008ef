"""The engines that a profile runs a model in, and how they take turns."""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import compress
from time import perf_counter
from typing import NamedTuple, Protocol

from lora_graph.garbage import no_collections
from lora_graph.inspect.cost import Costs
from lora_graph.inspect.engines import named
from lora_graph.inspect.profile_report import NodeTime, Seconds, Timing
from lora_graph.interpret.run import Program
from lora_graph.interpret.steps import Hook
from lora_graph.ir.graph import Graph
from lora_graph.ir.leaves import Input, Project
from lora_graph.ir.opaque import Opaque
from lora_graph.ir.types import Array
from lora_graph.ir.value import Value, topological
from lora_graph.onnx.names import Names
from lora_graph.onnx.profiling import ProfilingSession, QuietSession, RuntimeNode
from lora_graph.onnx.source import ModelSource

BLOCKS = 4
"""How often two models take turns, so that what else the machine does meets both."""
NUMPY, RUNTIME, AS_IS = "numpy", "onnxruntime", "onnxruntime as is"
Arrays = Mapping[str, Array]


class Engine(Protocol):
    """Runs one model on the same inputs again and again; ``costs`` are those of the graph that its nodes compute."""

    name: str
    costs: Costs

    def run(self) -> None: ...

    def run_timed(self) -> None:
        """A run in which nodes are timed."""

    def timed(self) -> tuple[tuple[NodeTime, ...], Seconds]:
        """The nodes, with one number for each timed run so far, and the seconds of these runs as a whole."""

    def close(self) -> None: ...


class Numpy:
    """A compiled program of the interpreter, whose hook tells the time of each op.

    Names and modules are those of the graph of ``costs``, which has the Values of the program's.
    """

    name = NUMPY

    def __init__(self, program: Program, inputs: Arrays, state: Arrays, costs: Costs, *, reuse: bool = False) -> None:
        """With ``reuse`` a run writes its results where the run before left them, as training steps do."""
        self._program, self._inputs, self._state, self.costs = program, inputs, state, costs
        self._reuse = reuse
        self._results: Arrays | None = None
        self._nodes: dict[Value, list[float]] = {}
        self._runs: list[float] = []

    def run(self) -> None:
        self._run(None)

    def run_timed(self) -> None:
        found: list[tuple[Value, float]] = []
        start = perf_counter()
        self._run(lambda value, seconds: found.append((value, seconds)))
        self._runs.append(perf_counter() - start)
        for value, seconds in found:
            self._nodes.setdefault(value, []).append(seconds)

    def _run(self, hook: Hook | None) -> None:
        results = self._program.run(self._inputs, self._state, out=self._results, hook=hook)
        self._results = results if self._reuse else None

    def timed(self) -> tuple[tuple[NodeTime, ...], Seconds]:
        graph, taken = self.costs.graph, Names()
        own = {value: name for name, value in named(graph).items()}
        nodes = []
        for value, seconds in self._nodes.items():
            module = scope_in(graph, value)
            op = value.op.label if isinstance(value.op, Opaque) else value.op.name
            name = taken.new(own.get(value) or (f"{module}.{op}" if module else op))
            nodes.append(NodeTime(name, op, module, tuple(seconds), *_Work.of([value], self.costs), value))
        return tuple(nodes), tuple(self._runs)

    def close(self) -> None:
        """There is nothing to release."""


class OnnxRuntime:
    """ONNX Runtime with its own profiler, on a model that the graph of ``costs`` was read from."""

    def __init__(self, source: ModelSource, costs: Costs, feeds: Arrays, *, threads: int, optimize: bool) -> None:
        self.name = RUNTIME if optimize else AS_IS
        self.costs, self._feeds = costs, feeds
        self._plain = QuietSession(source, threads=threads, optimize=optimize)
        self._timed = ProfilingSession(source, threads=threads, optimize=optimize)

    def run(self) -> None:
        self._plain.run(self._feeds)

    def run_timed(self) -> None:
        self._timed.run(self._feeds)

    def timed(self) -> tuple[tuple[NodeTime, ...], Seconds]:
        profile = self._timed.profile()
        graph = self.costs.graph
        values = named(graph)
        nodes = []
        for node, covered in zip(profile.nodes, claimed(profile.nodes, graph), strict=True):
            made = next((values[name] for name in node.results if name in values), None)
            module = (scope_in(graph, made) if made is not None else "") or node.scope
            whole = made.operands[0] if made is not None and isinstance(made.op, Project) else made
            work = _Work.of(covered, self.costs)
            nodes.append(NodeTime(node.name, node.op, module, node.seconds, *work, whole))
        return tuple(nodes), profile.seconds

    def close(self) -> None:
        self._plain.close()
        self._timed.close()


class _Work(NamedTuple):
    """Operations, and the dtype of most of them."""

    flops: int
    dtype: str

    @classmethod
    def of(cls, values: Sequence[Value], costs: Costs) -> _Work:
        found = {value: costs.of[value].flops for value in values}
        most = max(found, key=lambda value: found[value], default=None)
        operands = () if most is None else most.operands
        return cls(sum(found.values()), next((o.dtype.name for o in operands if o.type.is_float), ""))


def claimed(nodes: Sequence[RuntimeNode], graph: Graph) -> list[tuple[Value, ...]]:
    """For each node the Values of ``graph`` that it stands for: one, or all those that were fused to it.

    They are what its results depend on and no node before it stands for. What depends on no input is computed once,
    before any run, unless a node says otherwise.
    """
    values = named(graph)
    targets = [[values[name] for name in node.results if name in values] for node in nodes]
    still = _still(graph).difference(*targets)
    done: set[Value] = set()
    found = []
    for wanted in targets:
        mine = topological(wanted, stop=lambda value: value in done or value in still)
        done.update(mine)
        found.append(tuple(value for value in mine if value.operands and not isinstance(value.op, Project)))
    return found


def _still(graph: Graph) -> set[Value]:
    """The Values that depend on no input."""
    still: set[Value] = set()
    for value in graph.values:
        if not isinstance(value.op, Input) and all(operand in still for operand in value.operands):
            still.add(value)
    return still


def scope_in(graph: Graph, value: Value) -> str:
    return graph.notes[value].scope if value in graph.notes else ""


def measure(engines: Sequence[Engine], warmup: int, repeat: int) -> list[Timing]:
    """A timing for each of the engines, which take turns: ``repeat`` runs with nothing timed, and as many with all.

    Before each turn come ``warmup`` runs that do not count.
    """
    plain: list[list[float]] = [[] for _ in engines]
    counts: list[list[bool]] = [[] for _ in engines]
    blocks = min(BLOCKS, repeat) if len(engines) > 1 else 1
    gc.collect()
    with no_collections():
        for block in range(blocks):
            wanted = [False] * warmup + [True] * (repeat * (block + 1) // blocks - repeat * block // blocks)
            for number, engine in enumerate(engines):
                for is_counted in wanted:
                    start = perf_counter()
                    engine.run()
                    plain[number] += [perf_counter() - start] * is_counted
                for is_counted in wanted:
                    engine.run_timed()
                    counts[number].append(is_counted)
    return [
        _timing(engine, tuple(seconds), counted)
        for engine, seconds, counted in zip(engines, plain, counts, strict=True)
    ]


def _timing(engine: Engine, plain: Seconds, counted: Sequence[bool]) -> Timing:
    nodes, runs = engine.timed()
    kept = tuple(replace(node, seconds=tuple(compress(node.seconds, counted))) for node in nodes)
    return Timing(engine.name, kept, tuple(compress(runs, counted)), plain, engine.costs)
