"""Names for values and nodes, readable and each used once."""

from __future__ import annotations

from collections.abc import Iterable


class Names:
    """Hands out names, each only once."""

    def __init__(self) -> None:
        self._taken: set[str] = set()
        self._counts: dict[str, int] = {}

    def reserve(self, names: Iterable[str]) -> None:
        self._taken.update(names)

    def new(self, wanted: str) -> str:
        """``wanted``, or ``wanted.1``, ``wanted.2`` … if it is taken."""
        name = wanted
        while name in self._taken:
            self._counts[wanted] = self._counts.get(wanted, 0) + 1
            name = f"{wanted}.{self._counts[wanted]}"
        self._taken.add(name)
        return name
