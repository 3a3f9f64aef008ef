"""Running training steps: parameters and optimizer state live here until they are handed back to the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from lora_graph import checks
from lora_graph.errors import TrainingError
from lora_graph.ir.dims import plain_name, shape_of
from lora_graph.ir.graph import Graph
from lora_graph.ir.types import Array, TensorType
from lora_graph.layers.interface import Feed, feed
from lora_graph.layers.layer import Layer
from lora_graph.train.buffers import Buffers
from lora_graph.train.data import Arrays, Batch
from lora_graph.train.draws import Rng, own_rng
from lora_graph.train.engine import Choice, Engine, Runner
from lora_graph.train.graph import LOSS, NORM, RATE, SHARE, Clipping
from lora_graph.train.loss import Loss
from lora_graph.train.optimizer import Adam, Optimizer
from lora_graph.train.prepared import Prepared

MEMORY = ("normal", "low")


@dataclass(frozen=True)
class StepResult:
    """The loss (mean over the samples of the step, before it), the norm of its gradient, and how it was taken."""

    loss: float
    gradient_norm: float
    learning_rate: float
    samples: int


class TrainingStep:
    """One optimizer step after the other on a model, in NumPy or ONNX Runtime.

    It starts from the parameters and the modes that the model has when it is made (the modes: when the first batch
    comes). Trainable parameters and the optimizer's state are held in two sets of the engine's buffers that change
    places when a step commits, which it does only if its loss and gradient norm are finite. :meth:`sync` hands the
    parameters to the model. ``engine``, ``provider``, ``threads`` and ``memory`` are those of :func:`lora_graph.fit`;
    which engine it is, is settled by the first batch.
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
        cache_frozen: bool = False,
        engine: str = "auto",
        provider: str | None = None,
        threads: int | None = None,
        memory: str = "normal",
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
        self.cache_frozen = cache_frozen
        self.memory = checks.choice("memory", memory, MEMORY)
        self.count = 0
        self.base: Mapping[str, Array] = model.state
        self.choice = Choice(engine, provider, threads)
        self._prepared: dict[object, Prepared] = {}
        self._buffers = Buffers(model.trainable_parameters())
        if not self._buffers.held:
            raise ValueError(f"nothing to train: every parameter of {model.layer_name} is frozen")

    def run(self, x: Any, target: npt.ArrayLike, rng: Rng = own_rng, *, weights: npt.ArrayLike | None = None) -> float:
        """One step on one batch; the loss before it. ``rng`` gives the generator of each draw (default: its own)."""
        return self.run_batches([Batch.of((x, target, weights))], rng).loss

    def run_batches(self, batches: Sequence[Batch | tuple[Any, ...]], rng: Rng = own_rng) -> StepResult:
        """One optimizer step on several micro-batches (exactly one unless ``accumulated``).

        Its loss and gradient are the means over all samples, or over all that counts where targets are left out or
        have weights: those of the micro-batches put together.
        """
        if not batches or (len(batches) > 1 and not self.accumulated):
            raise ValueError(f"a step takes one batch, more with accumulated=True: got {len(batches)}")
        given = [batch if isinstance(batch, Batch) else Batch.of(batch) for batch in batches]
        feeds = [feed(self.model, batch.inputs, "inputs") for batch in given]
        samples = sum(fed.samples for fed in feeds)
        if not samples:
            raise ValueError("a batch must hold at least one sample")
        kept: dict[str, Array] = {}
        prepared = [self._prepare(fed, batch) for fed, batch in zip(feeds, given, strict=True)]
        inputs = [p.inputs(fed, batch, rng, kept) for p, fed, batch in zip(prepared, feeds, given, strict=True)]
        masses = [p.mass(fed, arrays) for p, fed, arrays in zip(prepared, feeds, inputs, strict=True)]
        self._buffers.begin()
        loss = 0.0
        for p, fed, arrays, mass in zip(prepared, feeds, inputs, masses, strict=True):
            if p.accumulate is not None and fed.samples:
                share = mass / sum(masses) if mass else 0.0
                self._buffers.advance(p.accumulate, {**arrays, SHARE: np.asarray(share)})
                loss += self._buffers.number(LOSS) * share
        rate = self.optimizer.rate(self.count)
        self._buffers.advance(prepared[-1].step, {**inputs[-1], RATE: np.asarray(rate)})
        loss = loss if self.accumulated else self._buffers.number(LOSS)
        norm = self._buffers.number(NORM)
        if not np.isfinite(loss) or not np.isfinite(norm):
            raise self._diverged(loss, norm, prepared, [{**a, RATE: np.asarray(rate)} for a in inputs])
        self._buffers.commit()
        self.count += 1
        return StepResult(loss, norm, rate, samples)

    def sync(self) -> None:
        """Hand the parameters as they are now to the model."""
        self.model.assign({name: array for name, array in self.state().items() if name in self.base})

    def state(self) -> dict[str, Array]:
        """Everything a checkpoint needs: what trains, what the layers update, and the optimizer's state."""
        return self._buffers.read()

    def restore(self, state: Mapping[str, Array], count: int) -> None:
        """Take up training where :meth:`state` left it."""
        self._buffers.replace(state)
        self.count = count

    def hold(self, data: Arrays) -> Arrays:
        """``data`` with what the frozen part of the model gives for each sample, where that is worth holding."""
        count, size = len(data.samples.targets), data.batch_size
        arrays: dict[str, Array] = {}
        for start in range(0, count, size):
            batch = data.part(slice(start, start + size))
            fed = feed(self.model, batch.inputs, "inputs")
            for name, found in self._prepare(fed, batch).held(fed).items():
                whole = arrays.setdefault(name, np.empty((count, *found.shape[1:]), found.dtype))
                whole[start : start + size] = found
        return replace(data, samples=data.samples._replace(held=arrays))

    def _prepare(self, fed: Feed, batch: Batch) -> Prepared:
        types = _sized(self.model, fed) if self.cache_frozen else fed.types
        weights = None if batch.weights is None else batch.weights.ndim
        key = (tuple(types.values()), batch.targets.ndim, batch.targets.dtype.kind in "iub", weights)
        if key not in self._prepared:
            prepared = Prepared.build(self, types, batch, fed.binding)
            arrays = {**prepared.graphs.zeros(), **self.base}
            self._buffers.add({name: arrays[name] for name in arrays if name not in prepared.graphs.fixed})
            self._prepared[key] = prepared
        return self._prepared[key]

    def compile(
        self, graphs: Sequence[Graph], fixed: Mapping[str, Array], sizes: Mapping[str, int]
    ) -> tuple[Engine, list[Runner]]:
        """``graphs`` ready to run on the engine, ``sizes`` being those of named dimensions to begin with."""
        runners = self.choice.compile(graphs, fixed, sizes if self.memory == "low" else None)
        self._buffers.move(self.choice.engine)
        return self.choice.engine, runners

    def _diverged(
        self, loss: float, norm: float, prepared: Sequence[Prepared], inputs: Sequence[Mapping[str, Array]]
    ) -> TrainingError:
        """What to raise for a step that is not finite: which step, and where it stops being so."""
        what, number = ("gradient norm", norm) if np.isfinite(loss) else ("loss", loss)
        state = {**self.base, **self.state()}
        given = [{**arrays, SHARE: np.asarray(1.0)} for arrays in inputs]
        origins = (p.origin(arrays, state) for p, arrays in zip(prepared, given, strict=True))
        origin = next(filter(None, origins), f"none in NumPy, so it is {self.choice.engine.name}'s")
        return TrainingError(
            f"step {self.count + 1}: the {what} is {number}; the first value that is not finite is {origin}; "
            f"the parameters are those after step {self.count}"
        )


def _output(model: Layer, name: str | None) -> str:
    """The output ``name``, by default the only one."""
    names = list(model.output_shapes)
    if name is None and len(names) != 1:
        raise ValueError(f"output must say which of the model's outputs the loss applies to: {', '.join(names)}")
    return names[0] if name is None else checks.choice("output", name, names)


def _sized(model: Layer, fed: Feed) -> dict[str, TensorType]:
    """The types of inputs such as these, the batch being all that may vary."""
    lead = {name: plain_name(next(iter(kind.shape), 1)) for name, kind in fed.types.items()}
    for name, dimension in lead.items():
        if dimension is None:
            raise ValueError(f"cache_frozen needs inputs with a batch axis, but {name!r} is {model.inputs[name]}")
    batch = shape_of([str(next(iter(lead.values())))])
    return {name: kind.with_shape((*batch, *fed.arrays[name].shape[1:])) for name, kind in fed.types.items()}


def _limit(name: str, value: float | None) -> float | None:
    return None if value is None else checks.positive(name, value)
