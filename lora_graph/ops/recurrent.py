"""LSTM, GRU and RNN as ONNX has them: names for loops over time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from lora_graph.ir.dims import Dim
from lora_graph.ir.leaves import absent, project
from lora_graph.ir.value import Value, apply
from lora_graph.ops.gates import Gate
from lora_graph.ops.recurrence import Recurrent
from lora_graph.ops.shape import unsqueeze
from lora_graph.ops.slice import concat


@dataclass(frozen=True, eq=False)
class RNN(Recurrent):
    """h' = f(x Wᵀ + h Rᵀ + b)  (Elman, 1990)."""

    gate_count: ClassVar[int] = 1
    functions: ClassVar[tuple[str, ...]] = ("Tanh",)

    def cell(
        self, functions: Sequence[Gate], x: Value, states: Sequence[Value], captured: dict[str, Value]
    ) -> tuple[list[Value], list[Value]]:
        before = x + states[0] @ captured["R"]
        return [functions[0](self.bounded(before))], [before]


@dataclass(frozen=True, eq=False)
class LSTM(Recurrent):
    """i, o, f = φ(x Wᵀ + h Rᵀ + p ⊙ c + b), c' = f ⊙ c + i ⊙ g(x W_cᵀ + h R_cᵀ + b_c), h' = o ⊙ k(c').

    The gates stand in the order i, o, f, c. The peepholes p, for i, o and f, see c before the step, that of o sees c';
    with ``input_forget`` f = 1 - i. Hochreiter & Schmidhuber, 1997; Gers et al., 2000.
    """

    input_forget: int = 0
    gate_count: ClassVar[int] = 4
    functions: ClassVar[tuple[str, ...]] = ("Sigmoid", "Tanh", "Tanh")
    operand_names: ClassVar[tuple[str, ...]] = (*Recurrent.operand_names, "initial_c", "P")
    state_count: ClassVar[int] = 2

    def captures(self, own: dict[str, Value]) -> dict[str, Value]:
        return super().captures(own) | ({"P": own["P"]} if "P" in own else {})

    def cell(
        self, functions: Sequence[Gate], x: Value, states: Sequence[Value], captured: dict[str, Value]
    ) -> tuple[list[Value], list[Value]]:
        (squash, candidate, output), (h, c), peephole = functions, states, captured.get("P")
        before = x + h @ captured["R"]
        new = candidate(self.bounded(self.part(before, 3, 4)))
        if peephole is None:
            open_ = squash(self.bounded(self.part(before, 0, 3)))
            i, o, f = (self.part(open_, gate, gate + 1) for gate in range(3))
            kept = [before, open_]
        else:
            p = unsqueeze(peephole, 0)
            sees = {gate: self.part(before, gate, gate + 1) + c * self.part(p, gate, gate + 1) for gate in (0, 2)}
            i, f = (squash(self.bounded(sees[gate])) for gate in (0, 2))
            kept = [before, i, f]
        if self.input_forget:
            f = 1.0 - i
        after = f * c + i * new
        if peephole is not None:
            o = squash(self.bounded(self.part(before, 1, 2) + after * self.part(p, 1, 2)))
            kept.append(o)
        shown = output(after)
        return [o * shown, after], [*kept, new, shown]


@dataclass(frozen=True, eq=False)
class GRU(Recurrent):
    """z, r = φ(x Wᵀ + h Rᵀ + b), n = g(x W_hᵀ + (r ⊙ h) R_hᵀ + b_h), h' = (1 - z) ⊙ n + z ⊙ h.

    The gates stand in the order z, r, h. With ``linear_before_reset`` n = g(x W_hᵀ + r ⊙ (h R_hᵀ + b_Rh) + b_Wh).
    Cho et al., 2014.
    """

    linear_before_reset: int = 0
    gate_count: ClassVar[int] = 3
    functions: ClassVar[tuple[str, ...]] = ("Sigmoid", "Tanh")

    def project_inputs(self, x: Value, own: dict[str, Value]) -> Value:
        if not self.linear_before_reset or "B" not in own:
            return super().project_inputs(x, own)
        b, hidden = own["B"], self.hidden_size
        both = concat([b[: 2 * hidden] + b[3 * hidden : 5 * hidden], b[2 * hidden : 3 * hidden]], 0)
        projected: Value = x @ own["W"].T + both
        return projected

    def captures(self, own: dict[str, Value]) -> dict[str, Value]:
        if self.linear_before_reset:
            return super().captures(own) | ({"b": own["B"][5 * self.hidden_size :]} if "B" in own else {})
        gated = 2 * self.hidden_size
        return {"R": own["R"][:gated].T, "Rh": own["R"][gated:].T}

    def cell(
        self, functions: Sequence[Gate], x: Value, states: Sequence[Value], captured: dict[str, Value]
    ) -> tuple[list[Value], list[Value]]:
        (squash, candidate), (h,) = functions, states
        seen = h @ captured["R"]
        before = self.part(x, 0, 2) + self.part(seen, 0, 2)
        open_ = squash(self.bounded(before))
        z, r = self.part(open_, 0, 1), self.part(open_, 1, 2)
        if self.linear_before_reset:
            recalled = self.part(seen, 2, 3) + captured["b"] if "b" in captured else self.part(seen, 2, 3)
            proposed, reset = r * recalled, recalled
        else:
            reset = r * h
            proposed = reset @ captured["Rh"]
        inside = self.part(x, 2, 3) + proposed
        new = candidate(self.bounded(inside))
        return [new + z * (h - new)], [before, open_, reset, inside, new]


def _recurrent(op: Recurrent, *operands: Any) -> tuple[Value, ...]:
    """The results of ``op``, where None stands for an operand that is not given."""
    given = list(operands)
    while given[-1] is None:
        given.pop()
    several: Value = apply(op, *(absent() if operand is None else operand for operand in given))
    return tuple(project(several, i) for i in range(1 + op.state_count))


def lstm(
    x: Value,
    w: Value,
    r: Value,
    b: Value | None = None,
    sequence_lens: Value | None = None,
    initial_h: Value | None = None,
    initial_c: Value | None = None,
    p: Value | None = None,
    **attributes: Any,
) -> tuple[Value, Value, Value]:
    """Y, Y_h and Y_c of an :class:`LSTM`; ``attributes`` are its fields, ``hidden_size`` follows from ``r``."""
    op = LSTM(**_sized(r, attributes))
    return _recurrent(op, x, w, r, b, sequence_lens, initial_h, initial_c, p)  # type: ignore[return-value]


def gru(
    x: Value,
    w: Value,
    r: Value,
    b: Value | None = None,
    sequence_lens: Value | None = None,
    initial_h: Value | None = None,
    **attributes: Any,
) -> tuple[Value, Value]:
    """Y and Y_h of a :class:`GRU`; ``attributes`` are its fields, ``hidden_size`` follows from ``r``."""
    return _recurrent(GRU(**_sized(r, attributes)), x, w, r, b, sequence_lens, initial_h)  # type: ignore[return-value]


def rnn(
    x: Value,
    w: Value,
    r: Value,
    b: Value | None = None,
    sequence_lens: Value | None = None,
    initial_h: Value | None = None,
    **attributes: Any,
) -> tuple[Value, Value]:
    """Y and Y_h of an :class:`RNN`; ``attributes`` are its fields, ``hidden_size`` follows from ``r``."""
    return _recurrent(RNN(**_sized(r, attributes)), x, w, r, b, sequence_lens, initial_h)  # type: ignore[return-value]


def _sized(r: Value, attributes: dict[str, Any]) -> dict[str, Any]:
    size: Dim = r.shape[-1]
    return {"hidden_size": size, **attributes}
