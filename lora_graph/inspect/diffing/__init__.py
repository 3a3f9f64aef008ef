"""Diffs: what one model has that another has not, by structure rather than by name."""

from lora_graph.inspect.diffing.changes import Change
from lora_graph.inspect.diffing.diff import diff
from lora_graph.inspect.diffing.report import DiffReport, Fusion, Module, Renamed
from lora_graph.inspect.diffing.weights import WeightChange

__all__ = ["Change", "DiffReport", "Fusion", "Module", "Renamed", "WeightChange", "diff"]
