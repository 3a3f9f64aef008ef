"""The derivative of a loop: a loop in the other direction, over the derivative of the body.

What the body's derivative needs of the step itself comes from the results that the loop stacked, and is computed again
otherwise. Where the cotangent of a capture is a sum of products over all steps, its factors are stacked and one large
product outside the loop takes their sum.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from dataclasses import replace as replaced
from typing import Any

from lora_graph.ir.graph import Graph, replace
from lora_graph.ir.leaves import project
from lora_graph.ir.value import Value, apply, topological
from lora_graph.ops.arithmetic import Add
from lora_graph.ops.base import Cotangents
from lora_graph.ops.linalg import MatMul
from lora_graph.ops.pull import pull, summed
from lora_graph.ops.reduce import ReduceSum
from lora_graph.ops.scan import Scan, unique_input
from lora_graph.ops.shape import Reshape, Squeeze, Transpose, Unsqueeze, squeeze, zeros_like


def scan_pullback(loop: Value, given: Sequence[Value | None]) -> Cotangents:
    """The cotangents of the operands of ``loop``, a Scan, from those of its results; None where there is none."""
    return _Backward(loop, given).run()


@dataclass
class _Backward:
    """The backward loop under construction. Its Values are those of the forward body, besides leaves of its own."""

    loop: Value
    given: Sequence[Value | None]
    sequences: dict[Value, Callable[[], Value]] = field(default_factory=dict)
    """For each leaf that may be a slice: the sequence outside."""
    stacked: list[Value] = field(default_factory=list)
    carries: list[tuple[Value, Value, Value]] = field(default_factory=list)
    """Leaf, its value after a step, and its initial value outside."""

    def __post_init__(self) -> None:
        assert isinstance(self.loop.op, Scan)
        self.op: Scan = self.loop.op
        first, last = self.op.carried, self.op.carried + self.op.scanned
        inputs, self.outputs = self.op.body.inputs, self.op.results
        self.olds, self.slices, self.captures = inputs[:first], inputs[first:last], inputs[last:]
        self.known = {value: unique_input(value.type) for value in self.outputs[first:] if value.operands}

    def run(self) -> Cotangents:
        first, last = self.op.carried, self.op.carried + self.op.scanned
        seeds = {i: unique_input(leaf.type) for i, leaf in enumerate(self.olds) if leaf.type.is_float}
        for i in range(first, len(self.outputs)):
            cotangent = self.given[i]
            if cotangent is not None:
                seeds[i] = unique_input(self.outputs[i].type)
                self.sequences[seeds[i]] = lambda of=cotangent: of  # type: ignore[misc]
        found = pull(summed((self.outputs[i], leaf) for i, leaf in seeds.items()), self.op.body.inputs)
        moving = [i for i in seeds if i < first]
        for i in moving:
            start = self.given[i]
            new = found[self.olds[i]] if self.olds[i] in found else zeros_like(self.olds[i])
            self.carries.append((seeds[i], new, zeros_like(self.loop.operands[i]) if start is None else start))
        of_slices = {i: self._stack(found[leaf]) for i, leaf in enumerate(self.slices, first) if leaf in found}
        sums = {i: self._sum(found[leaf], i) for i, leaf in enumerate(self.captures, last) if leaf in found}
        backward = self._build()
        results: list[Value | None] = [None] * len(self.loop.operands)
        for position, i in enumerate(moving):
            results[i] = project(backward, position)
        for i, place in of_slices.items():
            results[i] = project(backward, len(self.carries) + place)
        for i, later in sums.items():
            results[i] = later(backward)
        return tuple(results)

    def _stack(self, value: Value) -> int:
        """The place of ``value`` among the results that the backward loop stacks."""
        if value not in self.stacked:
            self.stacked.append(value)
        return self.stacked.index(value)

    def _sum(self, term: Value, operand: int) -> Callable[[Value], Value]:
        """From the backward loop to the sum of ``term`` over all steps, the cotangent of a capture."""
        total = postponed(term)
        if total is None:
            place, leaf = len(self.carries), unique_input(term.type)
            self.carries.append((leaf, leaf + term, zeros_like(self.loop.operands[operand])))
            return lambda backward: project(backward, place)
        places = [None if self._is_sequence(value) else self._stack(value) for value in total.values]
        pairs = list(zip(total.values, places, strict=True))

        def later(backward: Value) -> Value:
            parts = [
                self._outside(value) if place is None else project(backward, len(self.carries) + place)
                for value, place in pairs
            ]
            return total.compute(*parts)

        return later

    def _build(self) -> Value:
        """The backward loop, with the leaves that its body turns out to use."""
        targets = replace([*(new for _, new, _ in self.carries), *self.stacked], self.known)
        used = set(topological(targets))
        for leaf in (*self.slices, *self.olds):
            self.sequences[leaf] = lambda value=leaf: self._outside(value)  # type: ignore[misc]
        for value, leaf in self.known.items():
            self.sequences[leaf] = lambda value=value: self._outside(value)  # type: ignore[misc]
        walked = [leaf for leaf in self.sequences if leaf in used] or [self.slices[0]]
        whole = [(leaf, operand) for leaf, operand in zip(self.captures, self._captured, strict=True) if leaf in used]
        leaves = (*(leaf for leaf, _, _ in self.carries), *walked, *(leaf for leaf, _ in whole))
        body = Graph(leaves, {str(i): target for i, target in enumerate(targets)})
        op = Scan(body, len(self.carries), len(walked), 1 - self.op.reverse)
        starts = [start for *_, start in self.carries]
        backward: Value = apply(op, *starts, *(self.sequences[leaf]() for leaf in walked), *(o for _, o in whole))
        return backward

    @property
    def _captured(self) -> tuple[Value, ...]:
        return self.loop.operands[self.op.carried + self.op.scanned :]

    def _is_sequence(self, value: Value) -> bool:
        return value in self.known or value in self.slices or value in self.olds

    def _outside(self, value: Value) -> Value:
        """The sequence of what ``value`` is at each step: a slice, a result, or a carry before the step."""
        if value in self.slices:
            return self.loop.operands[self.op.carried + self.slices.index(value)]
        loop, stacks = self.loop, self.outputs[self.op.carried :]
        if value not in stacks:  # a carry that this loop does not stack, but another one can
            missing = tuple(leaf for leaf in self.olds if leaf not in stacks)
            stacks += missing
            ports = enumerate([*self.outputs, *missing])
            body = Graph(self.op.body.inputs, {str(i): result for i, result in ports})
            loop = apply(replaced(self.op, body=body), *self.loop.operands)
        return project(loop, self.op.carried + stacks.index(value))


@dataclass(frozen=True)
class Postponed:
    """A sum over all steps, as a function of the sequences of what some ``values`` are at each step."""

    values: tuple[Value, ...]
    compute: Callable[..., Value]


def postponed(term: Value) -> Postponed | None:
    """How to take the sum of ``term`` over all steps after the loop, if that is one product or reduction."""
    op = term.op
    if isinstance(op, Add) and all(operand.type == term.type for operand in term.operands):
        a, b = map(postponed, term.operands)
        if a is None or b is None:
            return None
        cut = len(a.values)
        return Postponed(a.values + b.values, lambda *s: a.compute(*s[:cut]) + b.compute(*s[cut:]))
    if isinstance(op, Transpose | Reshape | Squeeze | Unsqueeze):
        inner = postponed(term.operands[0])
        return inner and Postponed(inner.values, lambda *s: apply(op, inner.compute(*s)))
    if isinstance(op, MatMul) and isinstance(term.operands[0].op, Transpose) and term.operands[1].rank == 2:
        (left,), right = term.operands[0].operands, term.operands[1]
        return Postponed((left, right), lambda a, b: _rows(a).T @ _rows(b)) if left.rank == 2 else None
    if isinstance(op, ReduceSum):
        axes = op.reduced(term.operands[0].type)
        return Postponed(term.operands, lambda s: _sum_over(s, axes, op.keepdims))
    return None


def _rows(sequence: Value) -> Value:
    """A sequence of matrices as one matrix, row under row."""
    return sequence.reshape(sequence.shape[0] * sequence.shape[1], sequence.shape[2])


def _sum_over(sequence: Value, axes: tuple[int, ...], keepdims: int) -> Value:
    """The sum over time and over ``axes`` of a step."""
    total: Any = sequence.sum(axis=(0, *(axis + 1 for axis in axes)), keepdims=bool(keepdims))
    return squeeze(total, 0) if keepdims else total
