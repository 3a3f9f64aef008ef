"""A training step made ready for one kind of batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lora_graph import checks
from lora_graph.interpret import Program, compile_graph
from lora_graph.ir.dims import shape_of
from lora_graph.ir.graph import Graph
from lora_graph.ir.leaves import Input
from lora_graph.ir.types import Array, TensorType, show
from lora_graph.ir.value import Value, apply
from lora_graph.layers.trace import Trace, batched, bind_input, lead_names, trace
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
    def build(cls, owner: TrainingStep, x: Array, target: Array) -> Prepared:
        """The step of ``owner`` for batches like this one."""
        sample = owner.model.input_shape
        traced = trace(owner.model, batched(sample, x.ndim))
        kind = _target_type(lead_names(x.ndim - len(sample)), target, traced.graph.outputs["y"])
        leaf = apply(Input(TARGET, kind))
        graphs = step_graphs(traced, leaf, owner.loss, owner.optimizer, owner.clipping, owner.accumulated)
        fixed = {name: owner.base[name] for name in graphs.fixed}
        step = _compiled(graphs.step, fixed)
        more = None if graphs.accumulate is None else _compiled(graphs.accumulate, fixed)
        return cls(traced, graphs, step, more, kind, _steady(traced))

    def inputs(self, x: Array, target: Array, rng: Rng, kept: dict[str, Array]) -> dict[str, Array]:
        """All inputs of a step but the learning rate: data as it has to be, and what is drawn for it.

        ``kept`` holds what was drawn for the step already.
        """
        source = self.traced.graph.inputs[0].type
        data = checks.numeric("inputs", x, source.dtype)
        labels = target.astype(np.int64) if target.dtype.kind == "b" else target
        wanted = checks.numeric("targets", labels, self.target.dtype)
        if any(isinstance(d, int) and d != n for d, n in zip(self.target.shape, wanted.shape, strict=True)):
            raise ValueError(f"targets must have the shape {show(self.target.shape)}, got {wanted.shape}")
        binding = bind_input("inputs", source.shape, data.shape)
        drawn = draw_all(self.traced.draws, binding, rng, self.steady, kept)
        return {"x": data, TARGET: wanted, **drawn}


def _target_type(names: Sequence[str], target: Array, prediction: Value) -> TensorType:
    """The type of targets: class numbers are int64, anything else has the dtype of the prediction.

    Leading axes are named as the input's, further ones as the prediction's where it names them.
    """
    size = prediction.shape[: target.ndim] + target.shape[prediction.rank :]
    further = [d if not isinstance(d, int) else n for d, n in zip(size, target.shape, strict=True)]
    shape = shape_of([*names[: target.ndim], *further[len(names) :]])
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
