"""Looking into models and files: does a model compute the same wherever it runs, does an adapter file fit."""

from lora_graph.inspect.compare import check
from lora_graph.inspect.lint import lint_adapter
from lora_graph.inspect.report import CheckReport, Comparison, Finding

__all__ = ["CheckReport", "Comparison", "Finding", "check", "lint_adapter"]
