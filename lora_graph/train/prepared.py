"""A training step made ready for one kind of batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lora_graph import checks
from lora_graph.interpret import Program, compile_graph
from lora_graph.ir.graph import Graph
from lora_graph.ir.leaves import Input
from lora_graph.ir.types import Array, TensorType, show
from lora_graph.ir.value import Value, apply
from lora_graph.layers.interface import Feed
from lora_graph.layers.trace import Trace, trace
from lora_graph.rewrite.pipeline import optimize_graph
from lora_graph.train.draws import Rng, draw_all
from lora_graph.train.graph import TARGET, StepGraphs, step_graphs

if TYPE_CHECKING:
    from lora_graph.train.step import TrainingStep


@dataclass
class Prepared:
    """The compiled graphs of a step, and what has to be fed to them."""

    traced: Trace
    graphs: StepGraphs
    step: Program
    accumulate: Program | None
    target: TensorType
    steady: frozenset[str]
    """The draws that micro-batches of one step have in common."""

    @classmethod
    def build(cls, owner: TrainingStep, batch: Feed, target: Array) -> Prepared:
        """The step of ``owner`` for batches like this one."""
        traced = trace(owner.model, batch.types)
        result = traced.graph.outputs[owner.output]
        kind = _target_type(target, result)
        leaf = apply(Input(TARGET, kind))
        graphs = step_graphs(traced, result, leaf, owner.loss, owner.optimizer, owner.clipping, owner.accumulated)
        fixed = {name: owner.base[name] for name in graphs.fixed}
        step = _compiled(graphs.step, fixed)
        more = None if graphs.accumulate is None else _compiled(graphs.accumulate, fixed)
        return cls(traced, graphs, step, more, kind, _steady(traced))

    def inputs(self, batch: Feed, target: Array, rng: Rng, kept: dict[str, Array]) -> dict[str, Array]:
        """All inputs of a step but the learning rate: data as it has to be, and what is drawn for it.

        ``kept`` holds what was drawn for the step already.
        """
        labels = target.astype(np.int64) if target.dtype.kind == "b" else target
        wanted = checks.numeric("targets", labels, self.target.dtype)
        if any(isinstance(d, int) and d != n for d, n in zip(self.target.shape, wanted.shape, strict=True)):
            raise ValueError(f"targets must have the shape {show(self.target.shape)}, got {wanted.shape}")
        drawn = draw_all(self.traced.draws, batch.binding, rng, self.steady, kept)
        return {**batch.arrays, TARGET: wanted, **drawn}


def _target_type(target: Array, prediction: Value) -> TensorType:
    """The type of targets: class numbers are int64, anything else has the dtype of the prediction.

    Axes are named as the prediction's where it names them.
    """
    size = prediction.shape[: target.ndim] + target.shape[prediction.rank :]
    shape = tuple(d if not isinstance(d, int) else n for d, n in zip(size, target.shape, strict=True))
    return TensorType(np.dtype(np.int64) if target.dtype.kind in "iub" else prediction.dtype, shape)


def _steady(traced: Trace) -> frozenset[str]:
    """Draws that share a name, and those that decide which parts of a parameter take part in a step."""
    deciding = {value.op.label for value in Graph((), traced.active).values if isinstance(value.op, Input)}
    return frozenset(draw.label for draw in traced.draws if draw.shared is not None or draw.label in deciding)


def _compiled(graph: Graph, fixed: Mapping[str, Array]) -> Program:
    optimized = optimize_graph(graph, "train").graph
    held = {name: fixed[name] for name in fixed if name in optimized.parameters}
    program = compile_graph(optimized, fixed=held)
    program.fix(held)
    return program
