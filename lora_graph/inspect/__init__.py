"""Looking into models and files: does a model compute the same wherever it runs, does an adapter file fit,
where does the time go."""

from lora_graph.inspect.compare import check
from lora_graph.inspect.lint import lint_adapter
from lora_graph.inspect.profile_model import profile
from lora_graph.inspect.profile_report import ProfileReport
from lora_graph.inspect.report import CheckReport, Comparison, Finding

__all__ = ["CheckReport", "Comparison", "Finding", "ProfileReport", "check", "lint_adapter", "profile"]
