"""Rules: a pattern, and what to write instead, or a sentence that says why not."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import Enum, auto

from lora_graph.ir.dims import SymbolicDim
from lora_graph.ir.leaves import Constant, Dimension, Input, Parameter
from lora_graph.ir.op import Op
from lora_graph.ir.value import Value, topological
from lora_graph.rewrite.pattern import Hole, Node, Pattern


@dataclass(frozen=True)
class Refusal:
    """Why a rule whose pattern matched did not fire."""

    reason: str


Outcome = Value | Refusal | None


@dataclass(frozen=True)
class Rule:
    """Where ``pattern`` matches, ``rewrite(facts, **holes)`` gives the Value to write instead.

    It may return a Refusal with the reason for leaving things alone, or None where the rule does not apply at all.
    The result must have the type of what it replaces. Unless ``free``, the rule does not fire where a Value inside the
    match has other users, because that Value would then be computed as well.
    """

    name: str
    pattern: Node
    rewrite: Callable[..., Outcome]
    free: bool = False


def rule(pattern: Callable[..., Pattern], *, free: bool = False) -> Callable[[Callable[..., Outcome]], Rule]:
    """Make a Rule of a function; the parameters of the lambda ``pattern`` are its holes.

    @rule(lambda x, w, d: x @ w + x @ d)
    def factor(facts, x, w, d):
        return x @ (w + d)
    """

    def decorate(rewrite: Callable[..., Outcome]) -> Rule:
        names = list(inspect.signature(pattern).parameters)
        built = pattern(*[Hole(name) for name in names])
        if not isinstance(built, Node):
            raise TypeError(f"the pattern of {rewrite.__name__} must be an op at its root")
        return Rule(rewrite.__name__, built, rewrite, free)

    return decorate


class Origin(Enum):
    """What a Value depends on; where that is a single parameter, its name stands for it instead."""

    CONSTANTS = auto()
    PARAMETERS = auto()
    INPUTS = auto()


@dataclass
class Facts:
    """What rules may ask about Values: facts that follow from types and leaves alone.

    ``fold`` says which subgraphs that depend on weights alone may be computed ahead of time: ``"none"``, ``"one"``
    (those of a single parameter, which keep its name and so keep adapters apart from their base) or ``"all"``.
    """

    fold: str = "none"
    _origins: dict[Value, Origin | str] = field(default_factory=dict)

    def origin(self, value: Value) -> Origin | str:
        """What ``value`` depends on: the name of the parameter where it is a single one."""
        known = self._origins
        if value not in known:
            ready = all(operand in known for operand in value.operands)
            for needed in [value] if ready else topological([value], stop=known.__contains__):
                known[needed] = _origin(needed, known)
        return known[value]

    def is_static(self, value: Value) -> bool:
        """Whether ``value`` depends on parameters and constants alone."""
        return self.origin(value) is not Origin.INPUTS

    def is_foldable(self, *values: Value) -> bool:
        """Whether an expression of ``values`` may be computed ahead of time."""
        if self.fold == "none":
            return all(isinstance(value.op, Constant) for value in values)
        together = _joined(self.origin(value) for value in values)
        return together is not Origin.INPUTS and (self.fold == "all" or together is not Origin.PARAMETERS)


def _origin(value: Value, known: dict[Value, Origin | str]) -> Origin | str:
    if isinstance(value.op, Input | Dimension) or not value.op.is_pure or has_symbolic_size(value.op):
        return Origin.INPUTS
    if isinstance(value.op, Parameter):
        return value.op.label
    return _joined(known[operand] for operand in value.operands)


def has_symbolic_size(op: Op) -> bool:
    """Whether an attribute is a dimension that only the inputs tell; a Parameter's own are told by its array."""
    if isinstance(op, Parameter):
        return False
    return any(
        isinstance(item, SymbolicDim)
        for attribute in op.attributes().values()
        for item in (attribute if isinstance(attribute, tuple) else (attribute,))
    )


def _joined(origins: Iterable[Origin | str]) -> Origin | str:
    """The origin of what depends on Values of these origins."""
    result: Origin | str = Origin.CONSTANTS
    for origin in origins:
        if origin is Origin.INPUTS:
            return origin
        if origin is not Origin.CONSTANTS:
            result = origin if result in (Origin.CONSTANTS, origin) else Origin.PARAMETERS
    return result
