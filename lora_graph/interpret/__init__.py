"""Running graphs with NumPy: the plain reference evaluation, and compiled programs that plan their memory."""

from lora_graph.interpret.plan import Plan
from lora_graph.interpret.reference import evaluate
from lora_graph.interpret.run import Program, compile_graph

__all__ = ["Plan", "Program", "compile_graph", "evaluate"]
