"""The network of benchmarks.mlp in lora_graph, on each of its engines."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from benchmarks import harness
from benchmarks.mlp import LEARNING_RATE, Problem, Step

if TYPE_CHECKING:
    from lora_graph.layers.layer import Layer
    from lora_graph.train.step import TrainingStep


def lora_graph_model(problem: Problem) -> Layer:
    """The network in lora_graph, with LoRA."""
    import lora_graph as lg

    return _network(problem, lambda layer: lg.StandardLoRAAdapter(layer, problem.rank, site="weight"))


def dylora_model(problem: Problem, active: int) -> Layer:
    """The network with DyLoRA, of whose rank the first ``active`` take part in every step."""
    import lora_graph as lg

    return _network(problem, lambda layer: lg.DyLoRAAdapter(layer, problem.rank, [active], site="weight"))


def _network(problem: Problem, adapt: Callable[[Layer], Layer]) -> Layer:
    import lora_graph as lg

    last = len(problem.layers) - 1
    dense = [
        lg.DenseLayer(inner, outer, None if index == last else "relu", dtype=problem.dtype)
        for index, (inner, outer) in enumerate(problem.layers)
    ]
    model = lg.Sequential([adapt(layer) for layer in dense])
    names = {"W": "base.weight", "b": "base.bias", "A": "lora.A", "B": "lora.B"}
    for name in problem.parameters:
        index, kind = name.split(".")
        model.set_parameter(f"{index}.{names[kind]}", problem.initial(name))
    return model


ENGINES = {
    "lora_graph-numpy": ("numpy", "normal"),
    "lora_graph-numpy-low": ("numpy", "low"),
    "lora_graph-onnxruntime": ("onnxruntime", "normal"),
    "lora_graph-onnxruntime-low": ("onnxruntime", "low"),
}
"""The engine and the kind of memory that each contender stands for."""


def training_step(model: Layer, name: str = "lora_graph-numpy", provider: str = "cpu") -> TrainingStep:
    """Adam on the mean squared error of ``model``, as the contender ``name`` runs it."""
    import lora_graph as lg

    engine, memory = ENGINES[name]
    return lg.train.TrainingStep(
        model,
        "mse",
        lg.Adam(LEARNING_RATE),
        engine=engine,
        provider=provider,
        threads=harness.threads(),
        memory=memory,
    )


def lora_graph_step(name: str, problem: Problem) -> Step:
    """lora_graph, running the step graph as the contender ``name`` does."""
    training = training_step(lora_graph_model(problem), name, problem.provider)
    return lambda x, t: float(training.run(x, t))
