"""Layers: functions with parameters that describe themselves as graphs."""

from lora_graph.layers.compiled import compile, optimize  # noqa: A004
from lora_graph.layers.dense import DenseLayer, FullyConnectedLayer
from lora_graph.layers.layer import Layer
from lora_graph.layers.sequential import Sequential
from lora_graph.layers.trace import Context

__all__ = ["Context", "DenseLayer", "FullyConnectedLayer", "Layer", "Sequential", "compile", "optimize"]
