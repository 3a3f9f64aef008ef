"""lora_graph: a computation-graph compiler for LoRA-family adapters, targeting ONNX.

A layer or adapter describes its computation as a small graph. Forward, backward, training, optimizing, merging and ONNX
export are walks over that graph.

    import lora_graph as lg
    layer = lg.StandardLoRAAdapter(lg.DenseLayer(64, 10), rank=4)
    lg.fit(layer, (images, labels), loss="cross_entropy")
    lg.export_onnx(layer, "adapted.onnx")
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lora_graph import display, ops
from lora_graph.errors import LoadError, MergeError, TrainingError
from lora_graph.ir import Graph, TensorType, Value, dim, parse, tensor
from lora_graph.version import __version__

if TYPE_CHECKING:
    from lora_graph import train
    from lora_graph.adapters import (
        AdaptedModel,
        Adapter,
        DoRAAdapter,
        DyLoRAAdapter,
        KroneckerForm,
        LoKrAdapter,
        LoRAConvolution,
        LoRADropAdapter,
        LoRALayer,
        Site,
        StandardLoRAAdapter,
        Target,
        TuckerConvolution,
        adapt,
    )
    from lora_graph.inspect import check, diff, lint_adapter, picture, profile, summarize
    from lora_graph.interop import load_lycoris, load_peft
    from lora_graph.layers import (
        AveragePoolLayer,
        BatchNormalizationLayer,
        Context,
        ConvolutionalLayer,
        DenseLayer,
        EmbeddingLayer,
        FlattenLayer,
        FullyConnectedLayer,
        GlobalAveragePoolLayer,
        GRULayer,
        Layer,
        LayerNormalizationLayer,
        LSTMLayer,
        MaxPoolLayer,
        Sequential,
        compile,  # noqa: A004
        optimize,
    )
    from lora_graph.onnx import Session, TrainingFiles, export_adapter, export_onnx, export_training_graph, load_onnx
    from lora_graph.train import (
        SGD,
        Adam,
        AdamW,
        CosineSchedule,
        History,
        LinearSchedule,
        StepSchedule,
        fit,
    )

_HOMES = {
    "adapters": (
        "AdaptedModel Adapter DoRAAdapter DyLoRAAdapter KroneckerForm LoKrAdapter LoRAConvolution LoRADropAdapter "
        "LoRALayer Site StandardLoRAAdapter Target TuckerConvolution adapt"
    ),
    "inspect": "check diff lint_adapter picture profile summarize",
    "interop": "load_lycoris load_peft",
    "layers": (
        "AveragePoolLayer BatchNormalizationLayer Context ConvolutionalLayer DenseLayer EmbeddingLayer FlattenLayer "
        "FullyConnectedLayer GRULayer GlobalAveragePoolLayer LSTMLayer Layer LayerNormalizationLayer MaxPoolLayer "
        "Sequential compile optimize"
    ),
    "onnx": "Session TrainingFiles export_adapter export_onnx export_training_graph load_onnx",
    "train": "SGD Adam AdamW CosineSchedule History LinearSchedule StepSchedule fit train",
}
_LATER = {name: f"lora_graph.{home}" for home, names in _HOMES.items() for name in names.split()}
"""Names whose modules are imported when they are first used: importing the package costs little more than NumPy."""


display.drawn_by("lora_graph.inspect.notebook")


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module 'lora_graph' has no attribute {name!r}")
    module = import_module(_LATER[name])
    return module if name == "train" else getattr(module, name)


def __dir__() -> list[str]:
    return __all__


__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "AdaptedModel",
    "Adapter",
    "AveragePoolLayer",
    "BatchNormalizationLayer",
    "Context",
    "ConvolutionalLayer",
    "CosineSchedule",
    "DenseLayer",
    "DoRAAdapter",
    "DyLoRAAdapter",
    "EmbeddingLayer",
    "FlattenLayer",
    "FullyConnectedLayer",
    "GRULayer",
    "GlobalAveragePoolLayer",
    "Graph",
    "History",
    "KroneckerForm",
    "LSTMLayer",
    "Layer",
    "LayerNormalizationLayer",
    "LinearSchedule",
    "LoKrAdapter",
    "LoRAConvolution",
    "LoRADropAdapter",
    "LoRALayer",
    "LoadError",
    "MaxPoolLayer",
    "MergeError",
    "Sequential",
    "Session",
    "Site",
    "StandardLoRAAdapter",
    "StepSchedule",
    "Target",
    "TensorType",
    "TrainingError",
    "TrainingFiles",
    "TuckerConvolution",
    "Value",
    "__version__",
    "adapt",
    "check",
    "compile",
    "diff",
    "dim",
    "export_adapter",
    "export_onnx",
    "export_training_graph",
    "fit",
    "lint_adapter",
    "load_lycoris",
    "load_onnx",
    "load_peft",
    "ops",
    "optimize",
    "parse",
    "picture",
    "profile",
    "summarize",
    "tensor",
    "train",
]
