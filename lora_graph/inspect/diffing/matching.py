"""Which Value of one graph is which of the other, and what lies around a match that has none."""

from __future__ import annotations

from collections.abc import Iterator

from lora_graph.inspect.diffing.side import Side
from lora_graph.ir.leaves import Parameter
from lora_graph.ir.value import Value
from lora_graph.ops.shape import Transpose

REACH = 12
"""How many ops are looked through for one that stands for another."""


class Matching:
    """``match`` maps Values of ``a`` to those of ``b``; ``back`` is the inverse. Values without a match are *open*."""

    def __init__(self, a: Side, b: Side) -> None:
        self.a, self.b = a, b
        self.match: dict[Value, Value] = {}
        self.back: dict[Value, Value] = {}

    def record(self, p: Value, q: Value) -> None:
        self.match[p] = q
        self.back[q] = p

    def are_open(self, p: Value, q: Value) -> bool:
        return p not in self.match and q not in self.back

    def may_be(self, p: Value, q: Value) -> bool:
        """Whether ``q`` may be what ``p`` became: not where one alone is known to be of an adapter.

        The very same array is the same parameter all the same: a file need not tell what its parameters are.
        """
        if (p in self.a.added) == (q in self.b.added):
            return True
        return p in self.a.contents and self.a.contents[p] == self.b.contents.get(q)

    def matched(self, side: Side) -> dict[Value, Value]:
        return self.match if side is self.a else self.back

    def open_users(self, side: Side, value: Value) -> dict[tuple[str, int], list[Value]]:
        """The open users of ``value``, by kind and by the operand that it is."""
        matched = self.matched(side)
        found: dict[tuple[str, int], list[Value]] = {}
        for user, position in side.users[value]:
            if user not in matched:
                found.setdefault((side.kinds[user], position), []).append(user)
        return found

    def is_left(self, side: Side, value: Value) -> bool:
        """Whether ``value`` has an open user."""
        matched = self.matched(side)
        return any(user not in matched for user, _ in side.users[value])

    def upward(self, side: Side, value: Value) -> list[Value]:
        """``value``, and what stands for it: open users of its type, and so on. A transpose stands for nothing."""
        matched, kind, reached = self.matched(side), side.type_numbers[value], [value]
        for current in reached:
            for user, _ in side.users[current]:
                is_stand_in = (
                    user not in matched and side.type_numbers[user] == kind and not isinstance(user.op, Transpose)
                )
                if is_stand_in and user not in reached and len(reached) < REACH:
                    reached.append(user)
        return reached

    def downward(self, side: Side, value: Value) -> list[Value]:
        """``value``, and if it is open what it stands for: operands of its type, and so on."""
        matched, kind, reached = self.matched(side), side.type_numbers[value], [value]
        for current in reached:
            if current not in matched and not isinstance(current.op, Transpose):
                for operand in current.operands:
                    if side.type_numbers[operand] == kind and operand not in reached and len(reached) < REACH:
                        reached.append(operand)
        return reached

    def ahead(self, side: Side, value: Value) -> Iterator[tuple[object, Value]]:
        """Open ops after ``value`` that have no equals nearby, nearest first, by kind and types."""
        matched, reached = self.matched(side), [value]
        found: dict[object, Value | None] = {}
        for current in reached:
            for user, _ in side.users[current]:
                if user not in matched and user not in reached and len(reached) < 2 * REACH:
                    reached.append(user)
                    weights = [side.type_numbers[x] for x in user.operands if isinstance(x.op, Parameter)]
                    key = side.kinds[user], side.type_numbers[user], *weights
                    found[key] = None if key in found else user
        return ((key, user) for key, user in found.items() if user is not None)
