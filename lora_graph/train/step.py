"""Running training steps: parameters and optimizer state live here until they are handed back to the model."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lora_graph import checks
from lora_graph.errors import TrainingError
from lora_graph.interpret import Program, compile_graph
from lora_graph.ir.dims import Dim, plain_name, shape_of
from lora_graph.ir.graph import Graph
from lora_graph.ir.leaves import Input
from lora_graph.ir.types import Array, TensorType, show
from lora_graph.ir.value import apply
from lora_graph.layers.layer import Layer
from lora_graph.layers.trace import Draw, Trace, lead_names, trace
from lora_graph.rewrite.pipeline import optimize_graph
from lora_graph.train.graph import LOSS, NORM, RATE, SHARE, Clipping, StepGraphs, is_sum, step_graphs
from lora_graph.train.loss import Loss
from lora_graph.train.optimizer import Adam, Optimizer

Rng = Callable[[Draw], np.random.Generator]
Batch = tuple[Array, Array]


@dataclass(frozen=True)
class StepResult:
    """The loss (mean over the samples of the step, before it) and the norm of its gradient."""

    loss: float
    gradient_norm: float


class TrainingStep:
    """One optimizer step after the other on a model, in NumPy.

    The trainable parameters and the optimizer's state are held in two sets of buffers that change places when a step
    commits, which it does only if its loss and gradient norm are finite. :meth:`sync` hands the parameters to the model.
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
    ):
        if not isinstance(model, Layer):
            raise TypeError(f"model must be a Layer, got {model!r}")
        if not model.supports_training:
            raise ValueError(f"{model.layer_name} does not support training")
        self.model = model
        self.loss = loss
        self.optimizer = optimizer if optimizer is not None else Adam()
        if not isinstance(self.optimizer, Optimizer):
            raise TypeError(f"optimizer must be an Optimizer such as lg.Adam(1e-3), got {optimizer!r}")
        self.clipping = Clipping(_limit("clip_norm", clip_norm), _limit("clip_value", clip_value))
        self.accumulated = accumulated
        self.count = 0
        self._prepared: dict[object, _Prepared] = {}
        self._state: dict[str, Array] = {}
        self._spare: dict[str, Array] = {}
        self._base = model.state

    def run(self, x: npt.ArrayLike, target: npt.ArrayLike, rng: Rng | None = None) -> float:
        """One step on one batch; the loss before it. ``rng`` gives the generator of each draw (default: its layer's)."""
        return self.run_batches([(np.asarray(x), np.asarray(target))], rng).loss

    def run_batches(self, batches: Sequence[Batch], rng: Rng | None = None) -> StepResult:
        """One optimizer step on the mean gradient of several micro-batches (exactly one unless ``accumulated``)."""
        draw = rng or (lambda wanted: wanted.layer.rng)
        shared: dict[str, Array] = {}
        samples = sum(_samples(x) for x, _ in batches)
        if not samples:
            raise ValueError("a batch must hold at least one sample")
        total, pending = 0.0, dict[str, Array]()
        with np.errstate(all="ignore"):
            for x, target in batches:
                prepared = self._prepare(x, target)
                inputs = prepared.inputs(x, target, draw, shared)
                if prepared.accumulate is not None:
                    part = _samples(x) / samples
                    self._advance(prepared.accumulate, {**inputs, SHARE: np.asarray(part)}, pending)
                    total += float(pending.pop(LOSS)) * part
            rate = np.asarray(self.optimizer.rate(self.count))
            self._advance(prepared.step, {**inputs, RATE: rate}, pending)
        loss = total if prepared.accumulate is not None else float(pending.pop(LOSS))
        norm = float(pending.pop(NORM))
        self._require_finite(loss, norm)
        self._commit(pending)
        return StepResult(loss, norm)

    def sync(self) -> None:
        """Hand the parameters as they are now to the model."""
        own = set(self._base)
        self.model.assign({name: array.copy() for name, array in self._state.items() if name in own})

    def state(self) -> dict[str, Array]:
        """Everything a checkpoint needs: what trains, what the layers update, and the optimizer's state."""
        return {name: array.copy() for name, array in self._state.items()}

    def restore(self, state: Mapping[str, Array], count: int) -> None:
        """Take up training where :meth:`state` left it."""
        self._state = {name: np.array(array) for name, array in state.items()}
        self._spare = {}
        self.count = count

    def _prepare(self, x: Array, target: Array) -> _Prepared:
        signature = (x.ndim, target.ndim, target.dtype.kind, target.shape[_lead(self.model, x) :])
        if signature not in self._prepared:
            prepared = _Prepared.build(self, x, target)
            for name, array in {**prepared.graphs.zeros(), **self._base}.items():
                if name not in prepared.graphs.fixed:
                    self._state.setdefault(name, array)
            self._prepared[signature] = prepared
        return self._prepared[signature]

    def _advance(self, program: Program, inputs: Mapping[str, Array], pending: dict[str, Array]) -> None:
        """Run ``program`` on the state with what is pending in it, and add what it changes to ``pending``."""
        graph = program.graph
        known = {leaf.op.label for leaf in graph.inputs if isinstance(leaf.op, Input)}
        given = {name: array for name, array in inputs.items() if name in known}
        state = {name: pending.get(name, self._state.get(name)) for name in graph.parameters}
        out = {name: self._spare.pop(name) for name in graph.outputs if name in self._spare}
        results = program.run(given, {name: array for name, array in state.items() if array is not None}, out=out)
        self._spare.update({name: pending[name] for name in results if name in pending})
        pending.update(results)

    def _commit(self, pending: Mapping[str, Array]) -> None:
        """What was computed becomes the state; the arrays it replaces will take the next results."""
        for name, array in pending.items():
            old, self._state[name] = self._state[name], array
            if old is not self._base.get(name):
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


@dataclass
class _Prepared:
    """The compiled step for one kind of batch."""

    traced: Trace
    graphs: StepGraphs
    step: Program
    accumulate: Program | None
    target: TensorType
    x: TensorType

    @classmethod
    def build(cls, owner: TrainingStep, x: Array, target: Array) -> _Prepared:
        lead = _lead(owner.model, x)
        names = lead_names(lead)
        traced = trace(owner.model, (*names, *owner.model.input_shape))
        kind = _target_type(names, target, owner.model.dtype)
        leaf = apply(Input("target", kind))
        graphs = step_graphs(traced, leaf, owner.loss, owner.optimizer, owner.clipping, owner.accumulated)
        fixed = {name: owner._base[name] for name in graphs.fixed}
        step = _compiled(graphs.step, fixed)
        more = None if graphs.accumulate is None else _compiled(graphs.accumulate, fixed)
        return cls(traced, graphs, step, more, kind, traced.graph.inputs[0].type)

    def inputs(self, x: Array, target: Array, rng: Rng, shared: dict[str, Array]) -> dict[str, Array]:
        """All inputs of a step but the learning rate: data as it has to be, and what is drawn for it."""
        data = checks.numeric("inputs", x, self.x.dtype)
        wanted = checks.numeric("targets", target, self.target.dtype)
        binding = bind(self.x.shape, data.shape)
        drawn: dict[str, Array] = {}
        for draw in self.traced.draws:
            key = f"{draw.shared}/{draw.label}"
            if draw.shared is None or key not in shared:
                drawn[draw.label] = draw.sample(rng(draw), binding)
                if draw.shared is not None:
                    shared[key] = drawn[draw.label]
            else:
                drawn[draw.label] = shared[key]
        return {"x": data, "target": wanted, **drawn}


def seeded(seed: int, step: int) -> Rng:
    """Generators that depend on the seed and the step alone; draws that share a name get equal numbers."""

    def rng(draw: Draw) -> np.random.Generator:
        return np.random.default_rng([seed, step, zlib.crc32((draw.shared or draw.label).encode())])

    return rng


def bind(shape: Iterable[Dim], sizes: Sequence[int]) -> dict[str, int]:
    """The sizes of the plain names in ``shape``."""
    return {name: size for d, size in zip(shape, sizes, strict=True) if (name := plain_name(d)) is not None}


def _compiled(graph: Graph, fixed: Mapping[str, Array]) -> Program:
    optimized = optimize_graph(graph, "train").graph
    program = compile_graph(optimized, fixed=tuple(name for name in fixed if name in optimized.parameters))
    program.fix({name: fixed[name] for name in fixed if name in optimized.parameters})
    return program


def _lead(model: Layer, x: Array) -> int:
    """How many leading axes ``x`` has; ValueError if it does not end in the model's input shape."""
    sample = model.input_shape
    tail = x.shape[x.ndim - len(sample) :] if x.ndim >= len(sample) else ()
    fits = len(tail) == len(sample) and all(not isinstance(d, int) or d == n for d, n in zip(sample, tail, strict=True))
    if not fits:
        raise ValueError(f"inputs must end in {show(sample)}, got shape {x.shape}")
    return x.ndim - len(sample)


def _target_type(names: Sequence[str], target: Array, dtype: np.dtype[np.floating]) -> TensorType:
    """The type of targets: leading axes named as the input's, class numbers int64, anything else in ``dtype``."""
    shape = [*names[: target.ndim], *target.shape[len(names) :]]
    return TensorType(np.dtype(np.int64) if target.dtype.kind in "iu" else dtype, shape_of(shape))


def _samples(x: Array) -> int:
    return x.shape[0] if x.ndim else 1


def _limit(name: str, value: float | None) -> float | None:
    if value is not None and checks.number(name, value) <= 0:
        raise ValueError(f"{name} must be positive, got {value}")
    return value
