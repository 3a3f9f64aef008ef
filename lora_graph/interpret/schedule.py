"""The order in which a plan runs its ops: list scheduling from the outputs backwards."""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heappop, heappush

from lora_graph.interpret.nodes import Kind, Node

WORK = (Kind.PLANNED, Kind.FRESH)


def schedule(nodes: Sequence[Node]) -> list[list[int]]:
    """The nodes that compute, in groups, each after its operands.

    A group is a run of element-wise ops of one shape that are connected to each other and read each other's results
    only element by element. From the last group backwards, an op joins the group that reads its result as soon as
    nobody before that group needs it; otherwise the order is that of ``nodes``. So an op runs late, next to its user,
    and a mask for the backward pass is not kept through the forward pass.
    """
    sources = [_sources(node, nodes) if node.kind in WORK else () for node in nodes]
    users = [0] * len(nodes)
    for needed in sources:
        for source in needed:
            users[source] += 1
    ready: list[int] = []
    for i, node in enumerate(nodes):
        if node.kind in WORK and not users[i]:
            heappush(ready, -i)
    joining: list[int] = []
    groups: list[list[int]] = []
    grain: tuple[int, ...] | None = None
    crossed: set[int] = set()
    while ready or joining:
        if joining:
            i = -heappop(joining)
        else:
            i = -heappop(ready)
            groups.append([])
            grain = nodes[i].grain
            crossed = set()
        groups[-1].append(i)
        crossed.update(nodes[o].root for o in nodes[i].operands if nodes[o].root != o)
        for source in sources[i]:
            users[source] -= 1
            if not users[source]:
                joins = grain is not None and nodes[source].grain == grain and source not in crossed
                heappush(joining if joins else ready, -source)
    return [group[::-1] for group in reversed(groups)]


def _sources(node: Node, nodes: Sequence[Node]) -> tuple[int, ...]:
    """The computing nodes whose memory ``node`` reads, or that it waits for, once each."""
    roots = dict.fromkeys(nodes[o].root for o in node.operands)
    roots.update(dict.fromkeys(nodes[o].root for o in _waits(node, nodes)))
    return tuple(root for root in roots if nodes[root].kind in WORK)


def _waits(node: Node, nodes: Sequence[Node]) -> list[int]:
    """What ``node``, or a view that it reads through, waits for."""
    waits = list(node.waits)
    for operand in node.operands:
        while nodes[operand].kind is Kind.VIEW:
            waits.extend(nodes[operand].waits)
            operand = nodes[operand].operands[0]
    return waits
