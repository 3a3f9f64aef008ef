"""Patterns: expressions over holes, written with the same operators as the Values they match."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from lora_graph.ir.expression import Expression
from lora_graph.ir.leaves import Constant
from lora_graph.ir.op import Op
from lora_graph.ir.value import Value
from lora_graph.ops.shape import Transpose

Bindings = dict[str, Value]


class Pattern(Expression):
    """A pattern; applying an op to one gives a larger one."""

    __slots__ = ()

    head: type[Op] | None = None
    """The class of the ops that what matches is an application of; None if any will do."""

    def _apply(self, op: Op, *operands: Any) -> Any:
        return Node(lambda candidate: candidate == op, type(op), tuple(map(as_pattern, operands)))

    @property
    def T(self) -> Node:
        """A matrix transpose."""
        return Node(lambda op: op == Transpose((1, 0)), Transpose, (self,))

    def match(self, value: Value, bindings: Bindings) -> Iterator[Bindings]:
        """Every way in which ``value`` has this form, as extensions of ``bindings``."""
        raise NotImplementedError

    def interior(self, value: Value, bindings: Bindings) -> Iterator[Value]:
        """The matched Values below the root that are no holes: those that a rewrite would leave behind."""
        return iter(())


class Hole(Pattern):
    """Matches any Value that ``accepts`` takes; every hole of one name matches the same Value."""

    __slots__ = ("accepts", "name")

    def __init__(self, name: str, accepts: Callable[[Value], bool] | None = None):
        self.name = name
        self.accepts = accepts

    def match(self, value: Value, bindings: Bindings) -> Iterator[Bindings]:
        bound = bindings.get(self.name)
        if bound is not None:
            if bound is value:
                yield bindings
        elif self.accepts is None or self.accepts(value):
            yield {**bindings, self.name: value}


class Literal(Pattern):
    """Matches a constant of which every element equals ``number``, rounded to its dtype; so 0.0 matches -0.0 too."""

    __slots__ = ("number",)

    head = Constant

    def __init__(self, number: float):
        self.number = number

    def match(self, value: Value, bindings: Bindings) -> Iterator[Bindings]:
        op = value.op
        if isinstance(op, Constant) and op.value.size and bool((op.value == self.number).all()):
            yield bindings


class Node(Pattern):
    """Matches an op that ``accepts`` takes, applied to what the operands match; commutative ops in both orders."""

    __slots__ = ("accepts", "head", "heads", "name", "operands")

    def __init__(self, accepts: Callable[[Op], bool], op: type[Op], operands: tuple[Pattern, ...], name: str = ""):
        self.accepts = accepts
        self.head: type[Op] = op
        self.operands = operands
        self.heads = tuple(operand.head for operand in operands)
        self.name = name

    def fits(self, heads: tuple[type[Op], ...]) -> bool:
        """Whether an application to operands that are applications of ops of these classes could match."""
        orders = [heads, heads[::-1]] if self._reversible else [heads]
        return len(heads) == len(self.heads) and any(
            all(want is None or want is have for want, have in zip(self.heads, order, strict=True)) for order in orders
        )

    @property
    def _reversible(self) -> bool:
        return self.head.commutative and len(self.operands) == 2

    def match(self, value: Value, bindings: Bindings) -> Iterator[Bindings]:
        if type(value.op) is not self.head or len(value.operands) != len(self.operands) or not self.accepts(value.op):
            return
        if self.name:
            if bindings.get(self.name, value) is not value:
                return
            bindings = {**bindings, self.name: value}
        yield from self._match_operands(value.operands, 0, bindings)
        if self._reversible and value.operands[0] is not value.operands[1]:
            yield from self._match_operands(value.operands[::-1], 0, bindings)

    def _match_operands(self, operands: tuple[Value, ...], index: int, bindings: Bindings) -> Iterator[Bindings]:
        if index == len(operands):
            yield bindings
            return
        for extended in self.operands[index].match(operands[index], bindings):
            yield from self._match_operands(operands, index + 1, extended)

    def interior(self, value: Value, bindings: Bindings) -> Iterator[Value]:
        for ordered in (value.operands, value.operands[::-1]):
            pairs = list(zip(self.operands, ordered, strict=True))
            if all(any(True for _ in pattern.match(operand, bindings)) for pattern, operand in pairs):
                for pattern, operand in pairs:
                    if isinstance(pattern, Node):
                        yield operand
                        yield from pattern.interior(operand, bindings)
                return


def as_pattern(thing: Any) -> Pattern:
    return thing if isinstance(thing, Pattern) else Literal(thing)


def any_op(op: type[Op], *operands: Any, name: str = "") -> Node:
    """``op`` with any attributes; ``name`` binds the matched Value, from which they can be read."""
    return Node(lambda _: True, op, tuple(map(as_pattern, operands)), name)
