"""How far a command of several stages is: a live line on a terminal, one line a stage elsewhere."""

from __future__ import annotations

import time
from typing import Self

from rich.console import Console
from rich.status import Status


class Stages:
    """Names each stage as it begins, with its number and the seconds that the one before took."""

    def __init__(self, total: int):
        self._console = Console(stderr=True)
        self._total = total
        self._number = 0
        self._status: Status | None = self._console.status("") if self._console.is_terminal else None
        self._started = time.perf_counter()
        self._last = ""

    def begin(self, what: str) -> None:
        self._finish()
        self._number += 1
        self._last, self._started = f"[{self._number}/{self._total}] {what}", time.perf_counter()
        if self._status is not None:
            self._status.update(self._last.replace("[", r"\[", 1))

    def _finish(self) -> None:
        if self._last:
            seconds = time.perf_counter() - self._started
            self._console.print(f"{self._last} ({seconds:.1f} s)", highlight=False, markup=False)

    def __enter__(self) -> Self:
        if self._status is not None:
            self._status.start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if self._status is not None:
            self._status.stop()
        if kind is None:
            self._finish()
