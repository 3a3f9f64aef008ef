"""Sharing: fused activations spelled out where the costly part of them is computed anyway, as their gradients do."""

from __future__ import annotations

import time

from lora_graph.ir.graph import Graph
from lora_graph.ir.op import Op
from lora_graph.ir.value import Value, topological
from lora_graph.ops.activation import Activation
from lora_graph.ops.loss import SoftmaxCrossEntropyLoss
from lora_graph.rewrite.cost import COSTLY
from lora_graph.rewrite.rebuild import rebuilt
from lora_graph.rewrite.record import PassRecord


def share_activations(graph: Graph) -> tuple[Graph, None, PassRecord]:
    """Every activation or loss of ``graph`` that has a costly Value in common with the rest of it, spelled out."""
    started = time.perf_counter()
    known = {value for value in graph.values if isinstance(value.op, COSTLY)}
    shared = {value for value in graph.values if known and _shares(value, known)}

    def spelled(value: Value, operands: tuple[Value, ...]) -> Value | None:
        if value not in shared:
            return None
        return _spelled(value.op, operands)

    new = rebuilt(graph, spelled) if shared else graph
    fired = {"spell activation": len(shared)} if shared else {}
    return new, None, PassRecord("share activations", graph, new, fired, seconds=time.perf_counter() - started)


def _shares(value: Value, known: set[Value]) -> bool:
    spelled = _spelled(value.op, value.operands)
    if spelled is None:
        return False
    return not known.isdisjoint(topological([spelled], stop=set(value.operands).__contains__))


def _spelled(op: Op, operands: tuple[Value, ...]) -> Value | None:
    if isinstance(op, Activation):
        return op.spelled(*operands)
    if isinstance(op, SoftmaxCrossEntropyLoss):
        spelled: Value = op.decompose(*operands)
        return spelled
    return None
