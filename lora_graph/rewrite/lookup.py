"""Rows of a table are linear in the table, so a bypass that looks up the same rows goes into it.

w[i] + d(i)  →  (w + D)[i]      where d is linear in rows a[i] of another table, and D is d on all rows of a
"""

from __future__ import annotations

from lora_graph.ir.dims import Shape
from lora_graph.ir.value import Value, apply, topological
from lora_graph.ops.arithmetic import Add, Mul
from lora_graph.ops.gather import Gather
from lora_graph.rewrite.merge import MAX_BYPASS, is_linear
from lora_graph.rewrite.pattern import any_op
from lora_graph.rewrite.rule import Facts, Outcome, Refusal, rule


@rule(lambda w, i, d: any_op(Add, any_op(Gather, w, i, name="lookup"), d))
def merge_lookup(facts: Facts, w: Value, i: Value, d: Value, lookup: Value) -> Outcome:
    """w[i] + d(i) → (w + D)[i]"""
    if lookup.op != Gather(0) or w.rank != 2 or d.type != lookup.type or facts.is_static(i) or not facts.is_static(w):
        return None
    change = _table(facts, d, i, w)
    if change is None:
        return None
    if not facts.is_foldable(w, change):
        return Refusal("the merged table may not be computed ahead of time here")
    return apply(lookup.op, w + change, i)


@rule(lambda w, i, s: any_op(Mul, any_op(Gather, w, i, name="lookup"), s))
def scale_table(facts: Facts, w: Value, i: Value, s: Value, lookup: Value) -> Outcome:
    """w[i] s → (w s)[i] for one factor for each column"""
    is_row = lookup.op == Gather(0) and w.rank == 2 and s.shape == w.shape[1:]
    return apply(lookup.op, w * s, i) if is_row and facts.is_foldable(w, s) and not facts.is_static(i) else None


def _table(facts: Facts, d: Value, i: Value, w: Value) -> Value | None:
    """D with d = D[i], where ``d`` is linear in what static tables hold at ``i``; None where it is something else."""
    lead: Shape = (*(1,) * (i.rank - 1), w.shape[0])
    new: dict[Value, Value] = {}
    path: set[Value] = set()
    stack = [d]
    while stack:
        value = stack.pop()
        if value in path or value in new or facts.is_static(value):
            continue
        if value.op == Gather(0) and value.operands[1] is i and facts.is_static(value.operands[0]):
            table = value.operands[0]
            if i.rank < 1 or table.rank != 2 or table.shape[0] != w.shape[0]:
                return None
            new[value] = table.reshape((*lead, table.shape[1]))
            continue
        path.add(value)
        if len(path) > MAX_BYPASS or not is_linear(facts, value, value.operands, i.rank):
            return None
        stack.extend(value.operands)
    for value in topological([d], stop=lambda v: v in new or v not in path):
        new[value] = apply(value.op.with_lead(lead), *(new.get(operand, operand) for operand in value.operands))
    return new[d].reshape(w.shape)


MERGE_LOOKUPS = [merge_lookup, scale_table]
