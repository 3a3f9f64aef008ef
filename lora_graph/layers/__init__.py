"""Layers: functions with parameters that describe themselves as graphs."""

from lora_graph.layers.compiled import compile, optimize  # noqa: A004
from lora_graph.layers.convolution import ConvolutionalLayer
from lora_graph.layers.dense import DenseLayer, FullyConnectedLayer
from lora_graph.layers.embedding import EmbeddingLayer
from lora_graph.layers.layer import Layer
from lora_graph.layers.normalization import BatchNormalizationLayer, LayerNormalizationLayer
from lora_graph.layers.pooling import AveragePoolLayer, FlattenLayer, GlobalAveragePoolLayer, MaxPoolLayer
from lora_graph.layers.recurrent import GRULayer, LSTMLayer
from lora_graph.layers.sequential import Sequential
from lora_graph.layers.trace import Context

__all__ = [
    "AveragePoolLayer",
    "BatchNormalizationLayer",
    "Context",
    "ConvolutionalLayer",
    "DenseLayer",
    "EmbeddingLayer",
    "FlattenLayer",
    "FullyConnectedLayer",
    "GRULayer",
    "GlobalAveragePoolLayer",
    "LSTMLayer",
    "Layer",
    "LayerNormalizationLayer",
    "MaxPoolLayer",
    "Sequential",
    "compile",
    "optimize",
]
