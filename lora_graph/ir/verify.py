"""The verifier: what has to hold of every graph, checked after every pass."""

from __future__ import annotations

from collections.abc import Container

from lora_graph.ir import dims
from lora_graph.ir.graph import Graph
from lora_graph.ir.leaves import Dimension, Input, Parameter
from lora_graph.ir.value import Value


class VerificationError(ValueError):
    """A graph that breaks a rule of the IR."""


def verify(graph: Graph, known: Container[Value] = ()) -> None:
    """Raise :class:`VerificationError`, naming the Value, unless

    every Value has the type that its op infers; every Input that is used is listed, once, under its own name; every
    Parameter name has one type; every Dimension is one of an input; there is at least one output. Values in ``known``
    have been checked before, and cannot have changed.
    """
    if not graph.outputs:
        raise VerificationError(f"graph {graph.name!r} has no output")
    listed: set[str] = set()
    for leaf in graph.inputs:
        if not isinstance(leaf.op, Input):
            raise VerificationError(f"{leaf!r} is listed as an input but is no Input")
        if leaf.op.label in listed:
            raise VerificationError(f"two inputs are called {leaf.op.label!r}")
        listed.add(leaf.op.label)
    declared, names = set(graph.inputs), set(graph.dim_names)
    parameters: dict[str, object] = {}
    for value in graph.values:
        if value not in known:
            _verify_type(value)
        match value.op:
            case Input(label=label) if value not in declared:
                raise VerificationError(f"input {label!r} is used but missing from the graph's inputs {sorted(listed)}")
            case Parameter(label=label):
                if parameters.setdefault(label, value.op) != value.op:
                    raise VerificationError(
                        f"parameter {label!r} is declared in two ways: {parameters[label]}, {value.op}"
                    )
            case Dimension(size=size):
                unknown = set(dims.names(size)) - names
                if unknown:
                    raise VerificationError(f"dimension {sorted(unknown)[0]!r} is not that of any input")


def _verify_type(value: Value) -> None:
    inferred = value.op.infer(*[operand.result_type for operand in value.operands])
    if inferred != value.result_type:
        raise VerificationError(f"{value!r} should have the type {inferred}")
