"""Looking into models and files: what is in a model, where its time goes, what differs, does it run the same."""

from lora_graph.inspect.compare import check
from lora_graph.inspect.diffing import DiffReport, diff
from lora_graph.inspect.drawing import picture
from lora_graph.inspect.lint import lint_adapter
from lora_graph.inspect.profile_model import profile
from lora_graph.inspect.profile_report import ProfileReport
from lora_graph.inspect.report import CheckReport, Comparison, Finding
from lora_graph.inspect.summary import Summary, summarize

__all__ = [
    "CheckReport",
    "Comparison",
    "DiffReport",
    "Finding",
    "ProfileReport",
    "Summary",
    "check",
    "diff",
    "lint_adapter",
    "picture",
    "profile",
    "summarize",
]
