"""Rewriting graphs: patterns and rules, the engine that applies them, and the pipelines of passes built from them."""

from lora_graph.rewrite.engine import rewrite
from lora_graph.rewrite.pattern import Hole, Pattern, any_op
from lora_graph.rewrite.pipeline import PRESETS, Optimized, Pass, Pipeline, optimize_graph, rules
from lora_graph.rewrite.record import PassRecord, Refused, Report
from lora_graph.rewrite.rule import Facts, Refusal, Rule, rule

__all__ = [
    "PRESETS",
    "Facts",
    "Hole",
    "Optimized",
    "Pass",
    "PassRecord",
    "Pattern",
    "Pipeline",
    "Refusal",
    "Refused",
    "Report",
    "Rule",
    "any_op",
    "optimize_graph",
    "rewrite",
    "rule",
    "rules",
]
