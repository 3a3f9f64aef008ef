"""Training: losses and optimizers as expressions, the step as one graph, and the loop around it."""

from lora_graph.train.history import History
from lora_graph.train.loop import fit
from lora_graph.train.loss import LOSSES
from lora_graph.train.optimizer import SGD, Adam, AdamW, Optimizer
from lora_graph.train.schedule import CosineSchedule, LinearSchedule, StepSchedule
from lora_graph.train.step import TrainingStep

__all__ = [
    "LOSSES",
    "SGD",
    "Adam",
    "AdamW",
    "CosineSchedule",
    "History",
    "LinearSchedule",
    "Optimizer",
    "StepSchedule",
    "TrainingStep",
    "fit",
]
