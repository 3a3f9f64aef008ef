"""What a training run leaves behind besides the parameters."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class History:
    """Losses, rates and norms by step, mean losses by epoch, and how long it took."""

    engine: str = "numpy"
    """What ran the steps: ``numpy``, ``onnxruntime`` or ``onnxruntime-cuda``."""
    why: str = ""
    """Why it was that one."""
    losses: list[float] = field(default_factory=list)
    """The loss of each step, before it was taken."""
    epoch_losses: list[float] = field(default_factory=list)
    """The mean loss of the steps of each epoch."""
    learning_rates: list[float] = field(default_factory=list)
    gradient_norms: list[float] = field(default_factory=list)
    samples: int = 0
    seconds: float = 0.0

    @property
    def steps(self) -> int:
        """How many steps were taken."""
        return len(self.losses)

    @property
    def samples_per_second(self) -> float:
        """Samples trained on in a second, 0 before any."""
        return self.samples / self.seconds if self.seconds else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain data."""
        return {**vars(self), "steps": self.steps, "samples_per_second": self.samples_per_second}

    def __repr__(self) -> str:
        if not self.losses:
            return "<History: no steps>"
        losses = self.epoch_losses or self.losses
        way = " -> ".join(f"{loss:.4g}" for loss in (losses if len(losses) == 1 else (losses[0], losses[-1])))
        return f"<History: {self.steps} steps, loss {way}, {self.samples_per_second:,.0f} samples/s>"
