"""float16: weights of half the size, products and what moves data in half precision, the rest as it was.

Inputs and outputs keep float32. So do sums over many elements, powers, exponentials, normalizations, softmax, recurrent
layers and loops, with the parameters that only they use: their intermediate results leave the range of float16 (65,504)
or lose too many digits in it. The same holds for numbers beyond that range, as masks of attention have them, and for
all that is computed from them up to the op that bounds it again.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

import numpy as np

from lora_graph.ir.graph import Graph, Note
from lora_graph.ir.leaves import Constant, Input, Parameter, constant
from lora_graph.ir.op import OPS
from lora_graph.ir.types import Array, TensorType
from lora_graph.ir.value import Value, apply
from lora_graph.onnx.forms.deployment import Deployment

COMPUTED = frozenset(
    OPS[name]
    for name in (
        *("MatMul", "Gemm", "Conv", "ConvTranspose", "Add", "Sub", "Mul", "Neg", "Abs", "Relu", "Sigmoid", "Tanh"),
        *("Where", "Clip", "Max", "Min", "MaxPool", "Gather", "GatherElements", "GatherND"),
    )
)
"""What is computed in float16."""

MOVED = frozenset(
    OPS[name]
    for name in (
        *("Transpose", "Reshape", "Expand", "Squeeze", "Unsqueeze", "Flatten", "Trilu"),
        *("Slice", "SliceTo", "Concat", "Pad"),
    )
)
"""What moves numbers in the precision that they have."""

BOUNDED = frozenset(OPS[name] for name in ("Softmax", "LogSoftmax", "Sigmoid", "Tanh", "Clip"))
"""Ops after which a number beyond the range of float16 is within it."""

FLOAT, SHORT = np.dtype(np.float32), np.dtype(np.float16)
LARGEST = float(np.finfo(SHORT).max)


def halved(made: Deployment) -> Deployment:
    """``made`` in float16 where that is safe, slots of adapters included; ValueError where nothing is float32."""
    if not any(array.dtype == FLOAT for array in made.state.values()):
        raise ValueError("dtype='float16' is for models of float32, and no parameter of this one is that")
    conversion = _Conversion(made.graph, made.state, set(made.slots), set(made.overridable) - set(made.slots))
    graph = conversion.run()
    kinds = {name: leaf.dtype for name, leaf in graph.parameters.items()}
    return replace(
        made,
        graph=graph,
        state={n: half_of(n, made.state[n]) if kind == SHORT else made.state[n] for n, kind in kinds.items()},
    )


def half_of(name: str, array: Array) -> Array:
    """``array`` in float16; ValueError where it has numbers beyond its range."""
    with np.errstate(over="ignore"):
        short = array.astype(SHORT)
    if not np.isfinite(short).all():
        raise ValueError(f"{name} has numbers beyond ±{LARGEST:,.0f}, which float16 does not hold")
    return short


class _Conversion:
    """Builds every Value again in the precision that is its own; where the other one is asked for there is a Cast."""

    def __init__(self, graph: Graph, state: Mapping[str, Array], short: Collection[str], long: Collection[str]) -> None:
        self._graph = graph
        self._short, self._long = short, long
        self._wide = _wide(graph, state)
        self._wanted: set[Value] = set()
        for value in reversed(graph.values):
            if type(value.op) in COMPUTED or (type(value.op) in MOVED and value in self._wanted):
                self._wanted.update(value.operands if value not in self._wide else ())
        self._new: dict[Value, Value] = {}

    def run(self) -> Graph:
        notes: dict[Value, Note] = {}
        for value in self._graph.values:
            self._new[value] = self._built(value)
            if value in self._graph.notes:
                notes.setdefault(self._new[value], self._graph.notes[value])
        outputs = {name: self._as(value, value.dtype) for name, value in self._graph.outputs.items()}
        return self._graph.with_outputs(outputs, notes)

    def _built(self, value: Value) -> Value:
        op = value.op
        if isinstance(op, Input | Constant):
            return value
        if isinstance(op, Parameter):
            is_short = op.label in self._short or (value in self._wanted and value not in self._wide)
            if op.type.dtype != FLOAT or op.label in self._long or not is_short:
                return value
            return apply(Parameter(op.label, op.type.with_dtype(SHORT), op.trainable))
        kind = SHORT if self._is_short(value) else FLOAT
        return apply(op, *(self._as(operand, kind) for operand in value.operands))

    def _is_short(self, value: Value) -> bool:
        """Whether ``value`` is computed in float16; what is moved keeps the precision that it has."""
        if type(value.op) in MOVED:
            floats = [self._new[operand].dtype for operand in value.operands if operand.dtype == FLOAT]
            return all(kind == SHORT for kind in floats)
        return type(value.op) in COMPUTED and value not in self._wide

    def _as(self, value: Value, kind: np.dtype[np.floating]) -> Value:
        """``value`` in the precision ``kind``, if it is of floats at all."""
        new = self._new[value]
        if not isinstance(value.result_type, TensorType) or value.dtype != FLOAT or new.dtype == kind:
            return new
        if isinstance(new.op, Constant):
            return constant(new.op.value.astype(kind))
        is_cast = isinstance(new.op, OPS["Cast"]) and new.operands[0].dtype == kind == FLOAT
        return new.operands[0] if is_cast else new.astype(kind)


def _wide(graph: Graph, state: Mapping[str, Array]) -> set[Value]:
    """Every Value that may be finite and beyond the range of float16, as far as constants and parameters tell."""
    found: set[Value] = set()
    for value in graph.values:
        op = value.op
        if isinstance(op, Constant | Parameter):
            array = op.value if isinstance(op, Constant) else state[op.label]
            is_wide = array.dtype == FLOAT and bool((np.abs(array[np.isfinite(array)]) > LARGEST).any())
        else:
            is_wide = type(op) not in BOUNDED and any(operand in found for operand in value.operands)
        if is_wide:
            found.add(value)
    return found
