"""The progress bar of a training run."""

from __future__ import annotations

from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class Bar:
    """Epoch, steps done, loss, and the time that is left, on standard error."""

    def __init__(self, epochs: int, steps: int | None, done: int = 0):
        self._epochs = epochs
        columns = (
            TextColumn("epoch {task.fields[epoch]}/{task.fields[epochs]}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]}"),
            TimeRemainingColumn(),
        )
        console = Console(stderr=True)
        # a terminal is left as it was, a log keeps the last state
        self._progress = Progress(*columns, console=console, transient=console.is_terminal)
        self._task = self._progress.add_task("train", total=steps, completed=done, epoch=1, epochs=epochs, loss="-")

    def advance(self, epoch: int, loss: float) -> None:
        self._progress.update(self._task, advance=1, epoch=epoch + 1, loss=f"{loss:.4g}")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()
