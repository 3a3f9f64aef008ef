"""DyLoRA's training loop over given batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lora_graph import checks
from lora_graph.train.loss import Loss
from lora_graph.train.mode import training_mode
from lora_graph.train.optimizer import SGD
from lora_graph.train.step import TrainingStep

if TYPE_CHECKING:
    from lora_graph.adapters.dylora import DyLoRAAdapter


def train_with_nested_dropout(
    adapter: DyLoRAAdapter,
    inputs: Sequence[Any],
    targets: Sequence[Any],
    epochs: int,
    learning_rate: float,
    loss: Loss,
) -> list[float]:
    """See :meth:`DyLoRAAdapter.train_with_nested_dropout`."""
    checks.integer("epochs", epochs, 0)
    checks.positive("learning_rate", learning_rate)
    if len(inputs) != len(targets) or not len(inputs):
        raise ValueError(f"inputs and targets must be as many batches, at least one: got {len(inputs)}, {len(targets)}")
    training = TrainingStep(adapter, loss, SGD(learning_rate))
    means = []
    with training_mode(adapter):
        try:
            for _ in range(epochs):
                losses = [training.run(x, target) for x, target in zip(inputs, targets, strict=True)]
                means.append(sum(losses) / len(losses))
        finally:
            training.sync()
    return means
