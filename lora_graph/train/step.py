"""Running training steps: parameters and optimizer state live here until they are handed back to the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lora_graph import checks
from lora_graph.errors import TrainingError
from lora_graph.interpret import Program
from lora_graph.ir.types import Array
from lora_graph.layers.interface import Feed, feed
from lora_graph.layers.layer import Layer
from lora_graph.train.data import Batch
from lora_graph.train.draws import Rng, own_rng
from lora_graph.train.graph import LOSS, NORM, RATE, SHARE, Clipping, is_sum
from lora_graph.train.loss import Loss
from lora_graph.train.optimizer import Adam, Optimizer
from lora_graph.train.prepared import Prepared


@dataclass(frozen=True)
class StepResult:
    """The loss (mean over the samples of the step, before it), the norm of its gradient, and how it was taken."""

    loss: float
    gradient_norm: float
    learning_rate: float
    samples: int


class TrainingStep:
    """One optimizer step after the other on a model, in NumPy.

    It starts from the parameters and the modes that the model has when it is made (the modes: when the first batch
    comes). Trainable parameters and the optimizer's state are held in two sets of buffers that change places when a
    step commits, which it does only if its loss and gradient norm are finite. :meth:`sync` hands the parameters to the
    model.
    """

    def __init__(
        self,
        model: Layer,
        loss: Loss = "mse",
        optimizer: Optimizer | None = None,
        *,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        accumulated: bool = False,
        output: str | None = None,
    ):
        if not isinstance(model, Layer):
            raise TypeError(f"model must be a Layer, got {model!r}")
        if not model.supports_training:
            raise ValueError(f"{model.layer_name} does not support training")
        self.model = model
        self.loss = loss
        self.output = _output(model, output)
        self.optimizer = optimizer if optimizer is not None else Adam()
        if not isinstance(self.optimizer, Optimizer):
            raise TypeError(f"optimizer must be an Optimizer such as lg.Adam(1e-3), got {optimizer!r}")
        self.clipping = Clipping(_limit("clip_norm", clip_norm), _limit("clip_value", clip_value))
        self.accumulated = accumulated
        self.count = 0
        self.base: Mapping[str, Array] = model.state
        self._prepared: dict[object, Prepared] = {}
        self._state: dict[str, Array] = model.trainable_parameters()
        self._spare: dict[str, Array] = {}
        if not self._state:
            raise ValueError(f"nothing to train: every parameter of {model.layer_name} is frozen")

    def run(self, x: Any, target: npt.ArrayLike, rng: Rng = own_rng) -> float:
        """One step on one batch; the loss before it. ``rng`` gives the generator of each draw (default: its own)."""
        return self.run_batches([(x, np.asarray(target))], rng).loss

    def run_batches(self, batches: Sequence[Batch], rng: Rng = own_rng) -> StepResult:
        """One optimizer step on the mean gradient of several micro-batches (exactly one unless ``accumulated``)."""
        if not batches or (len(batches) > 1 and not self.accumulated):
            raise ValueError(f"a step takes one batch, more with accumulated=True: got {len(batches)}")
        feeds = [feed(self.model, x, "inputs") for x, _ in batches]
        total = sum(given.samples for given in feeds)
        if not total:
            raise ValueError("a batch must hold at least one sample")
        kept: dict[str, Array] = {}
        pending: dict[str, Array] = {}
        loss = 0.0
        for given, (_, target) in zip(feeds, batches, strict=True):
            prepared = self._prepare(given, target)
            inputs = prepared.inputs(given, target, rng, kept)
            if prepared.accumulate is not None and given.samples:
                share = given.samples / total
                self._advance(prepared.accumulate, {**inputs, SHARE: np.asarray(share)}, pending)
                loss += float(pending.pop(LOSS)) * share
        rate = self.optimizer.rate(self.count)
        self._advance(prepared.step, {**inputs, RATE: np.asarray(rate)}, pending)
        loss = float(pending.pop(LOSS)) if prepared.accumulate is None else loss
        norm = float(pending.pop(NORM))
        self._require_finite(loss, norm)
        self._commit(pending)
        return StepResult(loss, norm, rate, total)

    def sync(self) -> None:
        """Hand the parameters as they are now to the model."""
        self.model.assign({name: array.copy() for name, array in self._state.items() if name in self.base})

    def state(self) -> dict[str, Array]:
        """Everything a checkpoint needs: what trains, what the layers update, and the optimizer's state."""
        return {name: array.copy() for name, array in self._state.items()}

    def restore(self, state: Mapping[str, Array], count: int) -> None:
        """Take up training where :meth:`state` left it."""
        self._state = {name: np.array(array) for name, array in state.items()}
        self._spare = {}
        self.count = count

    def _prepare(self, batch: Feed, target: Array) -> Prepared:
        ranks = tuple(array.ndim for array in batch.arrays.values())
        key = (ranks, target.ndim, target.dtype.kind in "iub")
        if key not in self._prepared:
            prepared = Prepared.build(self, batch, target)
            for name, array in {**prepared.graphs.zeros(), **self.base}.items():
                if name not in prepared.graphs.fixed:
                    self._state.setdefault(name, array)
            self._prepared[key] = prepared
        return self._prepared[key]

    def _advance(self, program: Program, inputs: Mapping[str, Array], pending: dict[str, Array]) -> None:
        """Run ``program`` on the state with what is pending in it, and add what it changes to ``pending``."""
        graph = program.graph
        given = {name: inputs[name] for name in graph.input_names}
        now = {**self._state, **pending}
        state = {name: now[name] for name in graph.parameters if name in now}
        out = {name: self._spare.pop(name) for name in graph.outputs if name in self._spare}
        results = program.run(given, state, out=out)
        self._spare.update({name: pending[name] for name in results if name in pending})
        pending.update(results)

    def _commit(self, pending: Mapping[str, Array]) -> None:
        """What was computed becomes the state; the arrays it replaces will take the next results."""
        for name, array in pending.items():
            old, self._state[name] = self._state[name], array
            if old is not self.base.get(name):
                self._spare[name] = old
            if is_sum(name):
                array.fill(0)
        self.count += 1

    def _require_finite(self, loss: float, norm: float) -> None:
        for what, value in (("loss", loss), ("gradient norm", norm)):
            if not np.isfinite(value):
                raise TrainingError(
                    f"step {self.count + 1}: the {what} is {value}; the parameters are those after step {self.count}"
                )


def _output(model: Layer, name: str | None) -> str:
    """The output ``name``, by default the only one."""
    names = list(model.output_shapes)
    if name is None and len(names) != 1:
        raise ValueError(f"output must say which of the model's outputs the loss applies to: {', '.join(names)}")
    return names[0] if name is None else checks.choice("output", name, names)


def _limit(name: str, value: float | None) -> float | None:
    return None if value is None else checks.positive(name, value)
