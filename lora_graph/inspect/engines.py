"""What computes a model: the reference in float64, the compiled interpreter, and ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

from lora_graph.inspect.widen import Widened, widened, widened_state
from lora_graph.interpret import compile_graph, evaluate
from lora_graph.ir.graph import Graph
from lora_graph.ir.leaves import Input
from lora_graph.ir.types import Array, TensorType
from lora_graph.ir.value import Value
from lora_graph.onnx.exposing import computed_names, exposed
from lora_graph.onnx.importer import read_model
from lora_graph.onnx.session import Session
from lora_graph.onnx.source import ModelSource
from lora_graph.rewrite.pipeline import optimize_graph

Arrays = Mapping[str, Array]
State = dict[str, Array]


@dataclass(frozen=True)
class Given:
    """What a model is run on: ``inputs`` by name, and ``overrides`` for parameters that can be given at run time."""

    inputs: Arrays
    overrides: Arrays = field(default_factory=dict)


@dataclass(frozen=True)
class Program:
    """A graph and its state: what an engine is to compute."""

    graph: Graph
    state: Arrays

    @cached_property
    def wide(self) -> Widened:
        return widened(self.graph)

    @cached_property
    def _wide_state(self) -> State:
        return widened_state(self.state)

    def reference(self, given: Given, values: Mapping[str, Value] | None = None) -> State:
        """The outputs, or other Values by name: op by op with NumPy, in float64."""
        outputs = self.graph.outputs if values is None else values
        graph = self.wide.graph.with_outputs({name: self.wide.values[value] for name, value in outputs.items()})
        return evaluate(graph, given.inputs, self._wide_state | widened_state(given.overrides))


class Engine(Protocol):
    """Computes a program its own way. ``nameable`` are the Values of the program that it can also give."""

    name: str
    program: Program

    def outputs(self, given: Given) -> State: ...
    def nameable(self) -> dict[str, Value]: ...
    def values(self, given: Given, values: Mapping[str, Value]) -> State: ...


class Interpreter:
    """The compiled interpreter, on the graph that ``lg.compile`` makes."""

    name = "interpreter"

    def __init__(self, program: Program) -> None:
        self.program = program
        self._optimized = optimize_graph(program.graph, "inference")
        self._compiled = compile_graph(self._optimized.graph)

    def outputs(self, given: Given) -> State:
        state = self._optimized.state({**self.program.state, **given.overrides})
        return self._compiled.run(given.inputs, state)

    def nameable(self) -> dict[str, Value]:
        """All that is computed; what has no name goes by its number."""
        names = {value: name for name, value in named(self.program.graph).items()}
        values = enumerate(self.program.graph.values)
        return {names.get(value, f"%{number}"): value for number, value in values if is_computed(value)}

    def values(self, given: Given, values: Mapping[str, Value]) -> State:
        optimized = optimize_graph(self.program.graph.with_outputs(values), "inference")
        return compile_graph(optimized.graph).run(
            given.inputs, optimized.state({**self.program.state, **given.overrides})
        )


class Runtime:
    """ONNX Runtime on a model, with its optimizations or with none, on one thread."""

    def __init__(self, name: str, source: ModelSource, program: Program, *, optimize: bool) -> None:
        self.name = name
        self.program = program
        self._source, self._optimize = source, optimize
        self._session = Session(source, threads=1, optimize=optimize)

    def outputs(self, given: Given) -> State:
        return _run(self._session, given)

    def nameable(self) -> dict[str, Value]:
        known = computed_names(self._source)
        return {name: value for name, value in named(self.program.graph).items() if name in known}

    def values(self, given: Given, values: Mapping[str, Value]) -> State:
        types = {name: value.type for name, value in values.items()}
        with Session(exposed(self._source, types), threads=1, optimize=self._optimize) as session:
            found = _run(session, given)
        return {name: found[name] for name in values}


def program_of(source: ModelSource) -> Program:
    """What a model computes, as reading it gives it."""
    read = read_model(source)
    return Program(read.graph, read.state)


def named(graph: Graph) -> dict[str, Value]:
    """The computed Values that have a name of their own, in the order of the graph; outputs by theirs."""
    own = {value: name for name, value in graph.outputs.items()}
    found = {own.get(v) or (graph.notes[v].name if v in graph.notes else ""): v for v in graph.values if is_computed(v)}
    return {name: value for name, value in found.items() if name}


def is_computed(value: Value) -> bool:
    """Whether ``value`` is a tensor that is computed from others."""
    return bool(value.operands) and isinstance(value.result_type, TensorType)


def input_types(graph: Graph) -> dict[str, TensorType]:
    return {leaf.op.label: leaf.type for leaf in graph.inputs if isinstance(leaf.op, Input)}


def _run(session: Session, given: Given) -> State:
    found = session.run({**given.inputs, **given.overrides})
    return dict(found) if isinstance(found, dict) else {next(iter(session.outputs)): found}
