"""Which nodes of a graph of edges are on cycles."""

from __future__ import annotations

from collections.abc import Collection, Sequence


def on_cycles(size: int, pairs: Sequence[tuple[int, int]]) -> set[int]:
    """The nodes among ``size`` that are on cycles, or between two of them; a pair is an edge."""
    left = _not_drained(range(size), pairs)
    if not left:
        return left
    return _not_drained(left, [(b, a) for a, b in pairs if a in left and b in left])


def _not_drained(nodes: Collection[int], pairs: Sequence[tuple[int, int]]) -> set[int]:
    """What is left when nodes that nothing leads to are taken away, again and again."""
    following: dict[int, list[int]] = {}
    waiting = dict.fromkeys(nodes, 0)
    for source, target in pairs:
        following.setdefault(source, []).append(target)
        waiting[target] += 1
    free = [node for node, count in waiting.items() if not count]
    left = set(waiting)
    while free:
        node = free.pop()
        left.remove(node)
        for target in following.get(node, ()):
            waiting[target] -= 1
            if not waiting[target]:
                free.append(target)
    return left
