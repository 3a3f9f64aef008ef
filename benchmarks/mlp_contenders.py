"""Who trains the network of benchmarks.mlp, and how."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from benchmarks.harness import Contender
from benchmarks.mlp import Problem, Step, numpy_step
from benchmarks.mlp_lora_graph import ENGINES, lora_graph_step
from benchmarks.mlp_onnxsim import onnxsim_step
from benchmarks.mlp_torch import peft_step, torch_step

STEPS: dict[str, Callable[[Problem], Step]] = {
    "numpy": numpy_step,
    "torch": torch_step,
    "peft": peft_step,
    "onnxsim": onnxsim_step,
    **{name: partial(lora_graph_step, name) for name in ENGINES},
}

ON_CUDA = ("torch", "peft", "lora_graph-onnxruntime", "lora_graph-onnxruntime-low")
"""The contenders that can run on a GPU."""


def contenders(python: str, torch_python: str, onnxsim_python: str) -> dict[str, Contender]:
    """The contenders by name: ``torch_python`` runs those of PyTorch, ``onnxsim_python`` that of onnxsim."""
    listed = [
        Contender("numpy", ("numpy",), python),
        Contender("torch", ("numpy", "torch"), torch_python),
        Contender("peft", ("numpy", "torch", "peft"), torch_python),
        Contender("onnxsim", ("numpy", "onnx", "onnxruntime", "onnxsim"), onnxsim_python),
        *engines(python),
    ]
    return {contender.name: contender for contender in listed}


def engines(python: str) -> list[Contender]:
    """lora_graph's contenders."""
    needs = {"numpy": ("numpy", "lora_graph"), "onnxruntime": ("numpy", "onnx", "onnxruntime", "lora_graph")}
    return [Contender(name, needs[engine], python) for name, (engine, _) in ENGINES.items()]
