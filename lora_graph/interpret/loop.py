"""The kernel of a Scan: the plan of its body, run once a step on slices of the loop's own arrays."""

from __future__ import annotations

from typing import Any

import numpy as np

from lora_graph.interpret.plan import Plan, Result
from lora_graph.interpret.reference import compute
from lora_graph.ir.graph import Graph
from lora_graph.ir.leaves import Absent, Constant, Dimension
from lora_graph.ir.types import Array, TensorType
from lora_graph.ir.value import Value
from lora_graph.ops.scan import Scan

Target = tuple[Result, Array, bool]
"""A result of the body, the array that takes it, and whether that has a place for every step (else for two)."""


class Loop:
    """``loop(*operands, out=results)`` runs ``op``, whose dimensions are ints.

    What depends on captures and constants alone is computed once. A step writes to the places of its results in
    ``results``; a new carry stays where it was written until the next step has read it, so nothing is copied.
    """

    def __init__(self, op: Scan) -> None:
        self.op = op
        body = op.body
        self.captures = body.inputs[op.carried + op.scanned :]
        self.still = _still(body, self.captures)
        self.place = {value: f"{i}" for i, value in reversed(list(enumerate(op.results)))}
        outputs = {name: value for value, name in self.place.items()}
        self.plan = Plan(Graph(body.inputs, outputs, name=body.name), self.still, {})
        at = {value: i for i, value in self.plan.given}
        self.carries = [at.get(leaf) for leaf in body.inputs[: op.carried]]
        slices = body.inputs[op.carried : op.carried + op.scanned]
        self.slices = [(at[leaf], number) for number, leaf in enumerate(slices, op.carried) if leaf in at]

    def __call__(self, *operands: Array, out: tuple[Array, ...]) -> None:
        op, runs = self.op, self.plan.runs
        known: dict[Value, Any] = dict(zip(self.captures, operands[op.carried + op.scanned :], strict=True))
        compute(self.still, known, {})
        env = self.plan.environment(known)
        targets, after = self._targets(out)
        slices = [(position, operands[number]) for position, number in self.slices]
        carries = list(operands[: op.carried])
        steps = range(len(operands[op.carried]))
        for step in reversed(steps) if op.reverse else steps:
            for position, carry in zip(self.carries, carries, strict=True):
                if position is not None:
                    env[position] = carry
            for position, sequence in slices:
                env[position] = sequence[step, ...]
            written = [array[step if whole else step & 1, ...] for _, array, whole in targets]
            for (result, _, _), target in zip(targets, written, strict=True):
                for i, shape in result.aliases:
                    env[i] = target if shape == target.shape else target.reshape(shape)
            for run in runs:
                run(env)
            for (result, _, _), target in zip(targets, written, strict=True):
                if not result.aliases:
                    np.copyto(target, env[result.position])
            carries = [written[i] for i in after]
        for final, carry in zip(out, carries, strict=False):
            np.copyto(final, carry)
        self._repeat(out)

    def _targets(self, out: tuple[Array, ...]) -> tuple[list[Target], list[int]]:
        """Where each different result goes, and the number of the one that each carry becomes."""
        stacked = dict(zip(self.op.results[self.op.carried :], out[self.op.carried :], strict=True))
        numbers: dict[Value, int] = {}
        targets: list[Target] = []
        for result in self.plan.results:
            value = self.op.results[int(result.name)]
            numbers[value] = len(targets)
            array = stacked.get(value)
            shape, dtype = result.node.shape, result.node.tensor.dtype
            targets.append((result, np.empty((2, *shape), dtype) if array is None else array, array is not None))
        return targets, [numbers[value] for value in self.op.results[: self.op.carried]]

    def _repeat(self, out: tuple[Array, ...]) -> None:
        """Fill the arrays of results that are stacked more than once."""
        pairs = list(zip(self.op.results, out, strict=True))[self.op.carried :]
        last = dict(pairs)
        for value, array in pairs:
            if array is not last[value]:
                np.copyto(array, last[value])


def _still(body: Graph, captures: tuple[Value, ...]) -> list[Value]:
    """The Values that are the same at every step and that something which is not needs."""
    still: set[Value] = set()
    for value in body.values:
        is_given = value in captures or isinstance(value.op, Constant | Dimension | Absent)
        if is_given or (value.operands and still.issuperset(value.operands)):
            still.add(value)
    moving = [operand for value in body.values if value not in still for operand in value.operands]
    wanted = dict.fromkeys([*moving, *body.outputs.values()])
    return [value for value in wanted if value in still and isinstance(value.result_type, TensorType)]
