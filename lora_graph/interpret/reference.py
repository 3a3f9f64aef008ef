"""Evaluation without a plan: every op in turn, each with a fresh result. What the plan is checked against."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from lora_graph.interpret.signature import Signature
from lora_graph.ir.graph import Graph, substitute_dims
from lora_graph.ir.op import Op
from lora_graph.ir.types import Array, TensorType, type_of
from lora_graph.ir.value import Value, topological


def evaluate(graph: Graph, inputs: Mapping[str, Any], state: Mapping[str, Array]) -> dict[str, Array]:
    """The outputs of ``graph`` by name, as arrays of their own.

    ``inputs`` maps every input to an array-like; floats are cast. ``state`` holds the parameters, of exactly their
    dtype. ValueError or TypeError names the input or parameter that is missing, unknown or does not fit.
    """
    signature = Signature(graph)
    arrays = signature.arrays(inputs, state)
    binding = signature.bind(arrays)
    known: dict[Value, Any] = {port.leaf: array for port, array in zip(signature.ports, arrays, strict=True)}
    compute(graph.outputs.values(), known, dict(binding))
    return {name: np.array(known[value]) for name, value in graph.outputs.items()}


def compute(targets: Iterable[Value], known: dict[Value, Any], sizes: Mapping[str, int]) -> None:
    """Add ``targets``, and whatever they need, to the arrays in ``known``."""
    with np.errstate(all="ignore"):
        for value in topological(targets, stop=known.__contains__):
            known[value] = bound(value.op, sizes).evaluate(*[known[operand] for operand in value.operands])
            if isinstance(value.result_type, TensorType):
                known[value] = np.asarray(known[value])
                _check(value, known[value], sizes)


def bound(op: Op, sizes: Mapping[str, int]) -> Op:
    """``op`` with ints for the named dimensions in its attributes."""
    return substitute_dims(op, sizes) if sizes else op


def _check(value: Value, array: Array, sizes: Mapping[str, int]) -> None:
    wanted = value.type.bind(sizes)
    if type_of(array) != wanted:
        raise RuntimeError(f"{value.op.name} is {type_of(array)}, but its type says {wanted}")
