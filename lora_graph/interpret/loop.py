"""The kernel of a Scan: the plan of its body, written out as a Python loop over slices of the loop's own arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import cycle
from typing import Any

import numpy as np

from lora_graph.interpret.plan import Plan
from lora_graph.interpret.reference import compute
from lora_graph.interpret.steps import Forget, Return, Tiled, Write
from lora_graph.ir.graph import Graph
from lora_graph.ir.leaves import Absent, Constant, Dimension
from lora_graph.ir.types import Array, TensorType
from lora_graph.ir.value import Value
from lora_graph.ops.scan import Scan


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
        self.values = list(dict.fromkeys(op.results))
        """The different results of a step."""
        outputs = {str(i): value for i, value in enumerate(self.values)}
        self.plan = Plan(Graph(body.inputs, outputs, name=body.name), self.still, {})
        self.walk = self._written_out()

    def __call__(self, *operands: Array, out: tuple[Array, ...]) -> None:
        op, first = self.op, self.op.carried
        captured = operands[first + op.scanned :]
        known: dict[Value, Any] = dict(zip(self.captures, captured, strict=True))
        compute(self.still, known, {})
        steps = len(operands[first])
        walked: list[Iterable[Array]] = [_items(sequence, op.reverse) for sequence in operands[first:][: op.scanned]]
        stacked = dict(zip(op.results[first:], out[first:], strict=True))
        for value, result in zip(self.values, self.plan.results, strict=True):
            if value in stacked:
                walked.append(_items(stacked[value], op.reverse))
            else:
                walked.append(cycle([np.empty(result.node.shape, result.node.tensor.dtype) for _ in range(2)]))
        carries = self.walk(range(steps), self.plan.environment(known), operands[:first], walked)
        for final, carry in zip(out, carries, strict=False):
            np.copyto(final, carry)
        for value, array in zip(op.results[first:], out[first:], strict=True):
            if array is not stacked[value]:
                np.copyto(array, stacked[value])

    def _written_out(self) -> Callable[..., tuple[Array, ...]]:
        """The loop as a function, in which the array of node 7 is the variable ``v7`` and its kernel ``k7``.

        Looking arrays up in an environment would take longer than small products themselves.
        """
        op, plan = self.op, self.plan
        at = {value: f"v{i}" for i, value in plan.given}
        names: dict[str, Any] = {"copyto": np.copyto}
        carries = [f"c{i}" for i in range(op.carried)]
        slices = [at.get(leaf, "_") for leaf in op.body.inputs[op.carried :][: op.scanned]]
        targets = [f"t{i}" for i in range(len(self.values))]
        before = [f"{at[leaf]} = {name}" for leaf, name in zip(op.body.inputs, carries, strict=False) if leaf in at]
        after: list[str] = []
        for target, result in zip(targets, plan.results, strict=True):
            before += [
                f"v{i} = {target}" + ("" if shape == result.node.shape else f".reshape({shape})")
                for i, shape in result.aliases
            ]
            after += [] if result.aliases else [f"copyto({target}, v{result.position})"]
        after += [f"{c} = t{self.values.index(v)}" for c, v in zip(carries, op.results, strict=False)]
        inside = [*before, *(line for n, step in enumerate(plan.steps) for line in _lines(step, n, names)), *after]
        unpacked = "".join(f"{name}, " for name in carries)
        lines = [
            "def walk(steps, env, carries, walked):",
            *(f"    v{i} = env[{i}]" for i in range(len(plan.nodes))),
            *([f"    {unpacked} = carries"] if carries else []),
            f"    for _, {', '.join([*slices, *targets])} in zip(steps, *walked):",
            *(f"        {line}" for line in inside),
            f"    return ({unpacked})",
        ]
        exec("\n".join(lines), names)
        return names["walk"]  # type: ignore[no-any-return]


def _lines(step: Any, number: int, names: dict[str, Any]) -> Iterator[str]:
    """What ``step`` does, as statements; the objects they refer to are added to ``names``."""
    match step:
        case Write() | Return():
            names[f"k{number}"] = step.kernel
            operands, result = "".join(f"v{i}, " for i in step.operands), f"v{step.position}"
            call = f"k{number}({operands}"
            yield f"{call}out={result})" if isinstance(step, Write) else f"{result} = {call})"
        case Tiled():
            names[f"k{number}"] = step.run
            yield from (f"env[{i}] = v{i}" for i in step.positions)
            yield f"k{number}(env)"
        case Forget():
            yield from (f"v{i} = None" for i in step.positions)


def _items(array: Array, reverse: int) -> Iterable[Array]:
    """What lies along the first axis, as arrays that can be written to."""
    ordered = array[::-1] if reverse else array
    return ordered if array.ndim > 1 else [ordered[step, ...] for step in range(len(ordered))]


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
