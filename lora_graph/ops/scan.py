"""Recurrence: a graph that is run once for every step of its sequences."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, ClassVar, NoReturn

import numpy as np

from lora_graph.ir.dims import Dim
from lora_graph.ir.graph import Graph, replace
from lora_graph.ir.leaves import Input, Parameter, project
from lora_graph.ir.op import Lowering, NodeView, Op
from lora_graph.ir.types import TensorType, TupleType, meet, type_of
from lora_graph.ir.value import Value, apply
from lora_graph.ops.base import Cotangents, store
from lora_graph.ops.fused import evaluate_values

Step = Callable[..., tuple[Sequence[Value], Sequence[Value]]]
"""From carries, slices and captures, one after the other, to the new carries and the results of one step."""


@dataclass(frozen=True, eq=False)
class Scan(Op):
    """(h_t, y_t) = body(h_{t-1}, x_t, w) for every step t: the last h and all y, stacked along axis 0.

    Operands are ``carried`` initial values h, ``scanned`` sequences x with time as axis 0, and captures w that every
    step sees whole. With ``reverse`` the last step comes first; x and y keep their places in time. ``body`` takes
    inputs in this order and gives the new h, then y; it has no Parameters. Names inside it do not count.
    ONNX opset 21, all axes 0, all directions alike. ValueError for a body or operands that do not fit.
    """

    body: Graph
    carried: int
    scanned: int
    reverse: int = 0
    writes_out: ClassVar[bool] = True

    def __post_init__(self) -> None:
        inputs, outputs = self.body.inputs, self.body.outputs
        if self.scanned < 1 or self.carried < 0 or len(inputs) < self.carried + self.scanned:
            raise ValueError(f"Scan: {self.carried} carries and {self.scanned} sequences for {len(inputs)} body inputs")
        if len(outputs) < max(self.carried, 1):
            raise ValueError(f"Scan: the body has {len(outputs)} outputs for {self.carried} carries")
        if len(set(inputs)) < len(inputs):
            raise ValueError("Scan: two inputs of the body are the same")
        for value in self.body.values:
            if isinstance(value.op, Parameter) or (isinstance(value.op, Input) and value not in inputs):
                raise ValueError(f"Scan: the body uses {value.op.label!r}, which is none of its inputs: capture it")
        object.__setattr__(self, "body", self._named())

    def _named(self) -> Graph:
        """The body with names that follow from positions, so that equal bodies are equal."""
        stacked, captured = len(self.body.outputs) - self.carried, len(self.body.inputs) - self.carried - self.scanned
        names = [*_numbered("carry", self.carried), *_numbered("slice", self.scanned), *_numbered("capture", captured)]
        ports = [*_numbered("next", self.carried), *_numbered("stack", stacked)]
        leaves = [apply(Input(name, leaf.type)) for name, leaf in zip(names, self.body.inputs, strict=True)]
        results = replace(self.body.outputs.values(), dict(zip(self.body.inputs, leaves, strict=True)))
        return Graph(tuple(leaves), dict(zip(ports, results, strict=True)), name="step")

    @property
    def results(self) -> tuple[Value, ...]:
        """The outputs of the body."""
        return tuple(self.body.outputs.values())

    def infer(self, *operands: TensorType) -> TupleType:
        if len(operands) != len(self.body.inputs):
            raise ValueError(f"Scan: the body takes {len(self.body.inputs)} operands, got {len(operands)}")
        steps = _steps(operands[self.carried : self.carried + self.scanned])
        for i, (leaf, operand) in enumerate(zip(self.body.inputs, operands, strict=True)):
            is_sequence = self.carried <= i < self.carried + self.scanned
            _agree(leaf.type, operand.with_shape(operand.shape[1:]) if is_sequence else operand, f"operand {i}")
        for i, (leaf, new) in enumerate(zip(self.body.inputs, self.results[: self.carried], strict=False)):
            _agree(leaf.type, new.type, f"carry {i} after a step")
        for left, right in self.body.assumptions:
            meet(left, right, "Scan: the body")
        carries = [value.type for value in self.results[: self.carried]]
        stacks = [value.type.with_shape((steps, *value.shape)) for value in self.results[self.carried :]]
        return TupleType((*carries, *stacks))

    def evaluate(self, *operands: Any, out: Any = None) -> Any:
        first, last = self.carried, self.carried + self.scanned
        carries, sequences, captures = operands[:first], operands[first:last], operands[last:]
        types = self.infer(*map(type_of, operands)).items
        stacks = out[first:] if out else [np.empty(t.shape, t.dtype) for t in types[first:]]  # type: ignore[type-var]
        order = [value for value in self.body.values if value not in self.body.inputs]
        for step in range(len(sequences[0]))[:: -1 if self.reverse else 1]:
            slices = [sequence[step, ...] for sequence in sequences]
            known = dict(zip(self.body.inputs, [*carries, *slices, *captures], strict=True))
            evaluate_values(order, known)
            results = [np.asarray(known[value]) for value in self.results]
            carries = tuple(results[:first])
            for stack, result in zip(stacks, results[first:], strict=True):
                stack[step] = result
        finals = [store(carry, out[i] if out else None) for i, carry in enumerate(carries)]
        return (*finals, *stacks)

    def flops(self, result: Any, *operands: TensorType) -> Any:
        """Of the body, once for every step."""
        each: Dim = sum(value.flops for value in self.body.values)
        return each * operands[self.carried].shape[0]

    def pullback(self, cotangent: Any, result: Value, *operands: Value) -> Cotangents:
        from lora_graph.ops.scan_gradient import scan_pullback

        return scan_pullback(result, cotangent)

    def lower(self, to: Lowering, *operands: str) -> str:
        walked = self.carried + self.scanned
        attributes: dict[str, Any] = {"num_scan_inputs": self.scanned}
        if self.reverse:
            attributes["scan_input_directions"] = (1,) * self.scanned
            attributes["scan_output_directions"] = (1,) * (len(self.results) - self.carried)
        attributes["body"] = to.subgraph(self.body, operands[walked:])
        return to.node("Scan", operands[:walked], attributes, results=len(self.results))

    @classmethod
    def read(cls, node: NodeView) -> NoReturn:
        raise ValueError("Scan: reading loops is not supported")


def scan(
    step: Step, initial: Sequence[Value], sequences: Sequence[Value], captures: Sequence[Value] = (), reverse: int = 0
) -> tuple[tuple[Value, ...], tuple[Value, ...]]:
    """The last carries and the stacked results of ``step`` along the first axis of ``sequences``; see :class:`Scan`.

    ``step(*carries, *slices, *captures)`` gives the new carries and the results of one step. The derivative makes use
    of the results: what is among them is not computed again.
    """
    types = [value.type for value in initial]
    types += [value.type.with_shape(value.shape[1:]) for value in sequences]
    types += [value.type for value in captures]
    leaves = [unique_input(kind) for kind in types]
    carries, results = step(*leaves)
    if len(carries) != len(initial):
        raise ValueError(f"scan: the step gives {len(carries)} carries for {len(initial)} initial values")
    # the derivative wants to know what every carry was
    kept = [*results, *leaves[: len(initial)]]
    ports = {str(i): value for i, value in enumerate([*carries, *kept])}
    op = Scan(Graph(tuple(leaves), ports), len(initial), len(sequences), reverse)
    loop: Value = apply(op, *initial, *sequences, *captures)
    first = len(initial)
    return (
        tuple(project(loop, i) for i in range(first)),
        tuple(project(loop, first + i) for i in range(len(results))),
    )


_serial = count()


def unique_input(kind: TensorType) -> Value:
    """An Input of a body under construction, which no other one can be taken for."""
    leaf: Value = apply(Input(f"leaf {next(_serial)}", kind))
    return leaf


def _numbered(name: str, size: int) -> list[str]:
    return [f"{name}{i}" for i in range(size)]


def _steps(sequences: Sequence[TensorType]) -> Dim:
    """The common length of the sequences."""
    for sequence in sequences:
        if not sequence.rank:
            raise ValueError(f"Scan: a sequence needs an axis of time, got {sequence}")
    steps = sequences[0].shape[0]
    for sequence in sequences[1:]:
        steps = meet(steps, sequence.shape[0], "Scan: the lengths of the sequences")
    return steps


def _agree(wanted: TensorType, found: TensorType, what: str) -> None:
    if wanted.dtype != found.dtype or wanted.rank != found.rank:
        raise ValueError(f"Scan: {what} is {found} where the body has {wanted}")
    for left, right in zip(wanted.shape, found.shape, strict=True):
        if left != right:  # the message takes longer than to tell
            meet(left, right, f"Scan: {what} is {found} where the body has {wanted}")
