"""Rules: a pattern, and what to write instead, or a sentence that says why not."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field

from lora_graph.ir.leaves import Constant, Dimension, Input, Parameter
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


@dataclass
class Facts:
    """What rules may ask about Values: facts that follow from types and leaves alone.

    ``fold`` says which subgraphs that depend on weights alone may be computed ahead of time: ``"none"``, ``"one"``
    (those of a single parameter, which keep its name and so keep adapters apart from their base) or ``"all"``.
    """

    fold: str = "none"
    _origin: dict[Value, str | bool | None] = field(default_factory=dict)

    def origin(self, value: Value) -> str | bool | None:
        """False if ``value`` depends on an input, None for constants, a name for one parameter, True for several."""
        known = self._origin
        if value not in known:
            ready = all(operand in known for operand in value.operands)
            for needed in [value] if ready else topological([value], stop=known.__contains__):
                known[needed] = _origin(needed, known)
        return known[value]

    def is_static(self, value: Value) -> bool:
        """Whether ``value`` depends on parameters and constants alone."""
        return self.origin(value) is not False

    def is_foldable(self, *values: Value) -> bool:
        """Whether an expression of ``values`` may be computed ahead of time."""
        if self.fold == "none":
            return all(isinstance(value.op, Constant) for value in values)
        names: set[str | bool] = set()
        for value in values:
            origin = self.origin(value)
            if origin is False:
                return False
            if origin is not None:
                names.add(origin)
        return self.fold == "all" or (len(names) <= 1 and True not in names)


def _origin(value: Value, known: dict[Value, str | bool | None]) -> str | bool | None:
    if isinstance(value.op, Input | Dimension):
        return False
    if isinstance(value.op, Parameter):
        return value.op.label
    result: str | bool | None = None
    for operand in value.operands:
        theirs = known[operand]
        if theirs is False:
            return False
        if theirs is not None:
            result = theirs if result is None or result == theirs else True
    return result
