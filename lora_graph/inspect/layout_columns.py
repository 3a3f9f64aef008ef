"""Columns: where the cells of a row stand, so that wires are straight where they can be and nothing overlaps."""

from __future__ import annotations

from collections.abc import Sequence

Neighbour = tuple[int, float, float]
"""A cell, how far to the right of it this one wants to be, and how much that counts."""


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
    for row in rows:
        at = 0.0
        for index, cell in enumerate(row):
            at += half[cell] + (half[row[index - 1]] + max(gap[cell], gap[row[index - 1]]) if index else 0)
            x[cell] = at
        shift = (x[row[0]] - half[row[0]] + at + half[row[-1]]) / 2 if row else 0
        for cell in row:
            x[cell] -= shift
    both = [[*up, *down] for up, down in zip(uppers, lowers, strict=True)]
    for near, order in ((uppers, 1), (lowers, -1), (uppers, 1), (lowers, -1), (both, 1), (uppers, 1)):
        for row in rows[::order]:
            if row:
                _settle(row, x, half, gap, near)
    return x


def _settle(
    row: Sequence[int],
    x: list[float],
    half: Sequence[float],
    gap: Sequence[float],
    near: Sequence[Sequence[Neighbour]],
) -> None:
    """Least squares under the constraint of order: neighbours that want to be too close form a group that moves as one.

    Offsets within the row turn the distances into an order, which makes it an isotonic regression.
    """
    groups: list[tuple[float, float, int]] = []
    offsets = []
    offset = 0.0
    before = -1
    for cell in row:
        if before >= 0:
            offset += half[before] + half[cell] + max(gap[before], gap[cell])
        before = cell
        offsets.append(offset)
        weight = total = 0.0
        for other, shift, counts in near[cell]:
            weight += counts
            total += counts * (x[other] + shift)
        wanted = (total / weight if weight else x[cell]) - offset
        group = (wanted, weight or 1e-9, 1)
        while groups and groups[-1][0] > group[0]:
            mean, mass, count = groups.pop()
            both = mass + group[1]
            group = ((mean * mass + group[0] * group[1]) / both, both, count + group[2])
        groups.append(group)
    index = 0
    for mean, _, count in groups:
        for cell, offset in zip(row[index : index + count], offsets[index : index + count], strict=True):
            x[cell] = mean + offset
        index += count
