"""What ONNX's recurrent ops share: a product of all inputs at once, then a Scan of a cell over time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from lora_graph.ir.dims import Shape
from lora_graph.ir.leaves import Absent, absent, constant, project, size_of
from lora_graph.ir.op import Lowering, NodeView
from lora_graph.ir.types import TensorType, TupleType, meet, show
from lora_graph.ir.value import Value, apply
from lora_graph.ops.fused import Fused
from lora_graph.ops.gates import Gate, completed, gates
from lora_graph.ops.scan import scan
from lora_graph.ops.select import clip, where
from lora_graph.ops.shape import expand, unsqueeze
from lora_graph.ops.slice import concat

DIRECTIONS = {"forward": (0,), "reverse": (1,), "bidirectional": (0, 1)}
"""For each direction of an op, which way it walks: 1 is from the last step to the first."""

NO_OPERAND = Absent().infer()


@dataclass(frozen=True, eq=False)
class Recurrent(Fused, abstract=True):
    """Y [T, D, B, H] and the last states [D, B, H] of a cell that walks X [T, B, I] in D directions.

    Operands, ``absent()`` where not given: X, W [D, kH, I], R [D, kH, H], B [D, 2kH] (the bias of the input, then that
    of the state), sequence_lens int32 [B], the initial states [D, B, H], and for LSTM the peepholes P [D, 3H]; k is
    the number of gates. ``activations`` name the functions of each direction (default :attr:`functions`), ``clip``
    bounds what goes into them. Past the length of its sequence a row of Y is 0 and its state stays. ONNX opset 14,
    layout 0. ValueError for operands that do not fit.
    """

    hidden_size: int
    direction: str = "forward"
    activations: tuple[str, ...] = ()
    activation_alpha: tuple[float, ...] = ()
    activation_beta: tuple[float, ...] = ()
    clip: float | None = None

    spelled_out: ClassVar[bool] = False
    gate_count: ClassVar[int]
    functions: ClassVar[tuple[str, ...]]
    operand_names: ClassVar[tuple[str, ...]] = ("X", "W", "R", "B", "sequence_lens", "initial_h")
    state_count: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if self.direction not in DIRECTIONS:
            raise ValueError(f"{self.name}: direction must be one of {sorted(DIRECTIONS)}, got {self.direction!r}")
        if self.hidden_size < 1:
            raise ValueError(f"{self.name}: hidden_size must be at least 1, got {self.hidden_size}")
        wanted = len(self.functions) * len(self.walks)
        if len(self.activations) not in (0, wanted):
            raise ValueError(f"{self.name}: {self.direction} takes {wanted} activations, got {self.activations}")
        # ONNX Runtime has other defaults than the ones that ONNX documents, so they are always written
        numbers = completed(self.activations, self.activation_alpha, self.activation_beta)
        for name, value in zip(("activation_alpha", "activation_beta"), numbers, strict=True):
            object.__setattr__(self, name, value)

    @property
    def walks(self) -> tuple[int, ...]:
        return DIRECTIONS[self.direction]

    def _gates(self) -> list[list[Gate]]:
        """The functions of each direction."""
        size = len(self.functions)
        names = self.activations or self.functions * len(self.walks)
        found = gates(names, self.activation_alpha, self.activation_beta)
        return [found[i : i + size] for i in range(0, len(found), size)]

    def _shapes(self, x: TensorType) -> dict[str, Shape]:
        """The shapes of the operands after X."""
        directions, hidden = len(self.walks), self.hidden_size
        rows = self.gate_count * hidden
        state = (directions, x.shape[1], hidden)
        return {
            "W": (directions, rows, x.shape[2]),
            "R": (directions, rows, hidden),
            "B": (directions, 2 * rows),
            "sequence_lens": (x.shape[1],),
            "initial_h": state,
            "initial_c": state,
            "P": (directions, 3 * hidden),
        }

    def infer(self, *operands: TensorType) -> TupleType:
        if not 3 <= len(operands) <= len(self.operand_names):
            raise ValueError(f"{self.name} takes {', '.join(self.operand_names)}, got {len(operands)} operands")
        x = operands[0]
        if x.rank != 3 or not x.is_float:
            raise ValueError(f"{self.name}: X must be floats [time, batch, features], got {x}")
        shapes = self._shapes(x)
        for i, (name, operand) in enumerate(zip(self.operand_names[1:], operands[1:], strict=False)):
            if operand == NO_OPERAND and i > 1:
                continue
            wanted = TensorType(np.dtype(np.int32) if name == "sequence_lens" else x.dtype, shapes[name])
            if operand.dtype != wanted.dtype or operand.rank != wanted.rank:
                raise ValueError(f"{self.name}: {name} must be {wanted}, got {operand}")
            for left, right in zip(wanted.shape, operand.shape, strict=True):
                meet(left, right, f"{self.name}: {name} must be {show(wanted.shape)}, got {operand}")
        last = x.with_shape(shapes["initial_h"])
        every = x.with_shape((x.shape[0], *last.shape))
        return TupleType((every, *[last] * self.state_count))

    def decompose(self, *operands: Value) -> tuple[Value, ...]:
        given = dict(zip(self.operand_names, operands, strict=False))
        present = {name: value for name, value in given.items() if value.type != NO_OPERAND}
        walked = [self._walk(d, reverse, present) for d, reverse in enumerate(self.walks)]
        every, *lasts = zip(*walked, strict=True)
        return (_joined(every, 1), *(_joined(last, 0) for last in lasts))

    def _walk(self, direction: int, reverse: int, given: dict[str, Value]) -> tuple[Value, ...]:
        """The outputs [T, B, H] and the last states [B, H] of one direction."""
        x, lengths, hidden = given["X"], given.get("sequence_lens"), self.hidden_size
        own = {name: value[direction] for name, value in given.items() if name not in ("X", "sequence_lens")}
        empty = expand(constant(0, x.dtype), (x.shape[1], hidden))
        starts = [own.get(name, empty) for name in ("initial_h", "initial_c")[: self.state_count]]
        functions, captures = self._gates()[direction], self.captures(own)
        size = self.state_count

        def step(*leaves: Value) -> tuple[list[Value], list[Value]]:
            states, xt, rest = leaves[:size], leaves[size], leaves[size + 1 :]
            new, kept = self.cell(functions, xt, states, dict(zip(captures, rest, strict=True)))
            return new, [new[0], *kept]

        def masked(*leaves: Value) -> tuple[list[Value], list[Value]]:
            *states, now = leaves[: size + 1]
            new, kept = step(*states, *leaves[size + 1 : -1])
            alive = unsqueeze(now < leaves[-1], 1)
            held = [where(alive, after, before) for after, before in zip(new[:size], states, strict=True)]
            return [*held, now + (-1 if reverse else 1)], [where(alive, new[0], 0.0), *kept, alive]

        projected = self.project_inputs(x, own)
        if lengths is None:
            finals, stacks = scan(step, starts, [projected], list(captures.values()), reverse)
        else:
            first = size_of(x.shape[0], np.int32) - 1 if reverse else constant(0, np.int32)
            finals, stacks = scan(masked, [*starts, first], [projected], [*captures.values(), lengths], reverse)
        return (stacks[0], *finals[:size])

    def project_inputs(self, x: Value, own: dict[str, Value]) -> Value:
        """What the inputs give to all gates, for every step at once."""
        rows = self.gate_count * self.hidden_size
        projected = x @ own["W"].T
        return projected + (own["B"][:rows] + own["B"][rows:]) if "B" in own else projected

    def captures(self, own: dict[str, Value]) -> dict[str, Value]:
        """What every step of :meth:`cell` reads, by name."""
        return {"R": own["R"].T}

    def cell(
        self, functions: Sequence[Gate], x: Value, states: Sequence[Value], captured: dict[str, Value]
    ) -> tuple[list[Value], list[Value]]:
        """The new states after one step, and what else its derivative may want to read."""
        raise NotImplementedError(self.name)

    def bounded(self, x: Value) -> Value:
        return x if self.clip is None else clip(x, -self.clip, self.clip)

    def part(self, x: Value, first: int, last: int) -> Value:
        """The columns of gates ``first`` up to ``last``."""
        return x[:, first * self.hidden_size : last * self.hidden_size]

    def lower(self, to: Lowering, *operands: str) -> str:
        written = {name: value for name, value in self.attributes().items() if value not in ((), None)}
        return to.node(self.name, operands, written, results=1 + self.state_count)

    @classmethod
    def read(cls, node: NodeView) -> Any:
        given = {name: value for name in _fields(cls) if (value := node.attributes.get(name)) is not None}
        operands = [absent() if operand is None else operand for operand in node.operands]
        given.setdefault("hidden_size", operands[2].shape[-1])
        batch_first = node.attributes.get("layout", 0)
        if batch_first:
            operands = [
                value.swapaxes(0, 1) if name in ("X", "initial_h", "initial_c") and value.type != NO_OPERAND else value
                for name, value in zip(cls.operand_names, operands, strict=False)
            ]
        several: Value = apply(cls(**given), *operands)
        every, *lasts = (project(several, i) for i in range(1 + cls.state_count))
        if batch_first:
            return (every.transpose(2, 0, 1, 3), *(last.swapaxes(0, 1) for last in lasts))
        return (every, *lasts)


def _fields(cls: type[Recurrent]) -> list[str]:
    return list(cls.__dataclass_fields__)


def _joined(parts: Sequence[Value], axis: int) -> Value:
    """One part for each direction, along a new axis."""
    wide = [unsqueeze(part, axis) for part in parts]
    return wide[0] if len(wide) == 1 else concat(wide, axis)
