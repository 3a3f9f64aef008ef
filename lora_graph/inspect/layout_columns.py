"""Columns: where the cells of a row stand, so that wires are straight where they can be and nothing overlaps."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

Neighbour = tuple[int, float, float]
"""A cell, how far to the right of it this one wants to be, and how much that counts."""
FREE = 1e-9
"""How much a cell counts that has no neighbours and may be anywhere."""


def place_rows(
    rows: Sequence[Sequence[int]],
    half: Sequence[float],
    gap: Sequence[float],
    uppers: Sequence[Sequence[Neighbour]],
    lowers: Sequence[Sequence[Neighbour]],
) -> list[float]:
    """The centre of every cell.

    In a row, cells keep their order and the distance half[a] + half[b] + max(gap[a], gap[b]). Sweeps down, up and
    again take each row to the places nearest to the mean of its neighbours, in the sense of least squares.
    """
    x = [0.0] * len(half)
    offsets = [_offsets(row, half, gap) for row in rows]
    for row, places in zip(rows, offsets, strict=True):
        middle = (places[-1] + half[row[-1]] - half[row[0]]) / 2 if row else 0.0
        for cell, place in zip(row, places, strict=True):
            x[cell] = place - middle
    both = [[*up, *down] for up, down in zip(uppers, lowers, strict=True)]
    filled = [(row, places) for row, places in zip(rows, offsets, strict=True) if row]
    for near, order in ((uppers, 1), (lowers, -1), (uppers, 1), (lowers, -1), (both, 1), (uppers, 1)):
        for row, places in filled[::order]:
            if len(row) > 1:
                _settle(row, places, x, near)
            elif near[row[0]]:
                x[row[0]], _ = _wanted(near[row[0]], x)
    return x


def _offsets(row: Sequence[int], half: Sequence[float], gap: Sequence[float]) -> list[float]:
    """How far from the first cell each one is when they stand as close as they may."""
    places = [0.0] if row else []
    for before, cell in pairwise(row):
        places.append(places[-1] + half[before] + half[cell] + max(gap[before], gap[cell]))
    return places


def _wanted(near: Sequence[Neighbour], x: Sequence[float]) -> tuple[float, float]:
    """Where a cell with neighbours wants to be, and how much."""
    if len(near) == 1:
        other, shift, counts = near[0]
        return x[other] + shift, counts
    weight = total = 0.0
    for other, shift, counts in near:
        weight += counts
        total += counts * (x[other] + shift)
    return total / weight, weight


def _settle(row: Sequence[int], places: Sequence[float], x: list[float], near: Sequence[Sequence[Neighbour]]) -> None:
    """Least squares under the constraint of order: neighbours that want to be too close form a group that moves as one.

    Places within the row, taken away, turn the distances into an order, which makes it an isotonic regression.
    """
    groups: list[tuple[float, float, int]] = []
    for cell, place in zip(row, places, strict=True):
        mean, mass = _wanted(near[cell], x) if near[cell] else (x[cell], FREE)
        mean -= place
        count = 1
        while groups and groups[-1][0] > mean:
            other, its, cells = groups.pop()
            mean, mass, count = (mean * mass + other * its) / (mass + its), mass + its, count + cells
        groups.append((mean, mass, count))
    index = 0
    for mean, _, count in groups:
        for at in range(index, index + count):
            x[row[at]] = mean + places[at]
        index += count
