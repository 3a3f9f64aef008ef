"""How much speaks for one Value being another."""

from __future__ import annotations

from itertools import takewhile

from lora_graph.inspect.diffing.matching import Matching
from lora_graph.inspect.diffing.side import is_commutative, is_fixed, is_leaf
from lora_graph.inspect.diffing.turned import is_only_turned, is_turned
from lora_graph.ir.leaves import Parameter
from lora_graph.ir.value import Value

BRIDGED, ALIKE, UNLIKE = 0.8, 0.55, 0.1
"""How far an operand agrees with one that stands for its match, and a parameter with one of its type or that is its
transpose, and with one of another type."""
CHANGED, ADDED = 0.75, 0.5
"""What the score is multiplied by where attributes differ, and where types do; and where one is of an adapter."""
ALIKE_USE, PARAMETER = 8, 4
"""So many parts of names that are alike tell as much as an equal use, and as one of a parameter that an op uses."""


def score(known: Matching, p: Value, q: Value) -> float:
    """How much speaks for a pair of one kind, from 0 to 1: operands that agree count twice as much as users."""
    total = (2 * _operands_agree(known, p, q) + _users_agree(known, p, q)) / 3
    if not is_leaf(p) and known.a.ops[p] != known.b.ops[q] and not is_only_turned(known, p, q):
        total *= CHANGED
    if not known.may_be(p, q):
        total *= ADDED
    return total if known.a.type_numbers[p] == known.b.type_numbers[q] else total * CHANGED


def hints(known: Matching, p: Value, q: Value) -> int:
    """What tells pairs of one score apart: what becomes of them, and how far their names are alike."""
    own, *used = map(_common, known.a.name_parts[p], known.b.name_parts[q])
    return ALIKE_USE * (known.a.use[p] == known.b.use[q]) + own + PARAMETER * sum(used)


def _operands_agree(known: Matching, p: Value, q: Value) -> float:
    if is_leaf(p):
        return _agree(known, p, q)
    straight = [_agree(known, x, y) for x, y in zip(p.operands, q.operands, strict=False)]
    if is_commutative(p) and is_commutative(q):
        crossed = [_agree(known, x, y) for x, y in zip(p.operands, q.operands[::-1], strict=True)]
        straight = max(straight, crossed, key=sum)
    return sum(straight) / max(len(p.operands), len(q.operands))


def _agree(known: Matching, p: Value, q: Value) -> float:
    """How far two operands agree: 1 for a match, less for what may become one or stands for one."""
    partner, is_matched = known.match.get(p), q in known.back
    if partner is q or (partner is None and is_fixed(p) and known.a.what[p] == known.b.what[q]):
        return 1.0
    if partner is None and not is_matched and isinstance(p.op, Parameter) and isinstance(q.op, Parameter):
        return _alike(known, p, q)
    are_types_equal = known.a.type_numbers[p] == known.b.type_numbers[q]
    if (partner is not None and is_matched) or not are_types_equal or is_fixed(p) or is_fixed(q):
        return 0.0
    return _bridged(known, p, q)


def _alike(known: Matching, p: Value, q: Value) -> float:
    """How far two open parameters agree."""
    if known.a.contents[p] == known.b.contents[q]:
        return 1.0
    if not known.may_be(p, q):
        return 0.0
    are_types_equal = known.a.type_numbers[p] == known.b.type_numbers[q]
    return ALIKE if are_types_equal or is_turned(known, p, q) else UNLIKE


def _bridged(known: Matching, p: Value, q: Value) -> float:
    """How far two Values agree of which at least one may stand for an operand of its own."""
    ours, theirs = known.downward(known.a, p), known.downward(known.b, q)
    if any(known.match.get(x) in theirs for x in ours if x in known.match):
        return BRIDGED
    weights = [x for x in ours if isinstance(x.op, Parameter) and x not in known.match]
    others = [y for y in theirs if isinstance(y.op, Parameter) and y not in known.back]
    return BRIDGED * max((_alike(known, x, y) for x in weights for y in others), default=0.0)


def _users_agree(known: Matching, p: Value, q: Value) -> float:
    """The share of the users, and of the outputs that they are, which two Values have in common."""
    agreeing = 0
    for user, position in known.a.users[p]:
        other = known.match.get(user)
        if other is not None:
            agreeing += q in (other.operands if position < 0 else other.operands[position : position + 1])
    outputs = [len(side.outputs.get(value, ())) for side, value in ((known.a, p), (known.b, q))]
    most = max(len(known.a.users[p]) + outputs[0], len(known.b.users[q]) + outputs[1], 1)
    return (agreeing + min(outputs)) / most


def _common(first: tuple[str, ...], second: tuple[str, ...]) -> int:
    """How many parts of two names are the same, from the last one on: 2 for ``0.weight`` and ``base.0.weight``."""
    pairs = zip(reversed(first), reversed(second), strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
