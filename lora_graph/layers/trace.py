"""Tracing: a layer's ``build`` run once on symbolic inputs, giving its graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from lora_graph.ir.dims import Dim, Shape, fits, plain_name, shape_of, sizes, substitute
from lora_graph.ir.graph import Graph, Note
from lora_graph.ir.leaves import Input, Parameter
from lora_graph.ir.types import Array, TensorType, show
from lora_graph.ir.value import Value, apply, topological

if TYPE_CHECKING:
    from lora_graph.layers.layer import Layer

INPUT = "x"
"""What the one input of a layer is called."""

Sampler = Callable[[np.random.Generator, tuple[int, ...]], Array]


@dataclass(frozen=True)
class Draw:
    """An Input that the runner fills in training: ``sampler(rng, shape)`` draws its array.

    Draws with one ``shared`` name see equal random numbers within a training step.
    """

    label: str
    type: TensorType
    sampler: Sampler
    layer: Layer
    shared: str | None = None

    def sample(self, rng: np.random.Generator, binding: Mapping[str, int]) -> Array:
        shape = sizes(self.type.shape, binding)
        return np.asarray(self.sampler(rng, shape), self.type.dtype).reshape(shape)


@dataclass(frozen=True)
class Trace:
    """A layer's graph, and what running it in training needs besides."""

    graph: Graph
    draws: tuple[Draw, ...]
    updates: Mapping[str, Value]
    active: Mapping[str, Value]
    """For parameters of which only a part takes part in this step: a mask that broadcasts to the parameter."""


@dataclass
class Recorder:
    """What the contexts of one trace write down together."""

    places: Mapping[Layer, Place]
    training: bool | None
    annotate: bool = True
    draws: dict[str, Draw] = field(default_factory=dict)
    inputs: dict[str, Value] = field(default_factory=dict)
    updates: dict[str, Value] = field(default_factory=dict)
    active: dict[str, Value] = field(default_factory=dict)
    notes: dict[Value, Note] = field(default_factory=dict)

    def note(self, y: Value, path: str) -> None:
        """What ``y`` depends on and nobody has claimed yet belongs to the module at ``path``."""
        if self.annotate:
            for value in topological([y], stop=self.notes.__contains__):
                if value.operands:
                    self.notes[value] = Note(scope=path)


@dataclass(frozen=True)
class Place:
    """Where a layer stands in a model: its path, and whether it is frozen and in training mode there."""

    path: str
    frozen: bool
    training: bool

    def label(self, name: str) -> str:
        return f"{self.path}.{name}" if self.path else name

    def holds(self, label: str) -> bool:
        """Whether the parameter ``label`` belongs to the layer here or to one below it."""
        return label.startswith(self.label(""))


class Context:
    """What ``build(ctx, x)`` may ask for: parameters, random draws, updates of state, children, the mode."""

    def __init__(self, layer: Layer, recorder: Recorder):
        self._layer = layer
        self._recorder = recorder
        self._place = recorder.places[layer]

    @property
    def training(self) -> bool:
        """The mode the graph is built for."""
        return self._place.training if self._recorder.training is None else self._recorder.training

    @property
    def frozen(self) -> bool:
        """Whether the layer is held fixed where it stands: nothing of it trains."""
        return self._place.frozen

    def param(self, name: str) -> Value:
        """The layer's own parameter ``name`` as a Value; ValueError naming those there are."""
        slot = self._layer.slot(name)
        trainable = slot.trainable and not self._place.frozen
        return _parameter(self._place.label(name), slot.array.dtype, slot.array.shape, trainable)

    def draw(self, name: str, type: TensorType, sampler: Sampler, *, shared: str | None = None) -> Value:  # noqa: A002
        """An Input filled in training by ``sampler(rng, shape)``; an evaluation graph has none: asking is an error.

        Asking again under the same name gives the same Input.
        """
        if not self.training:
            raise RuntimeError(f"{self._layer.layer_name}: a graph for evaluation draws nothing; check ctx.training")
        label = self._place.label(name)
        if label == INPUT or not name or "." in name:
            raise ValueError(f"a draw is named by a string without dots, other than {INPUT!r}, got {name!r}")
        known = self._recorder.draws.setdefault(label, Draw(label, type, sampler, self._layer, shared))
        if known.type != type:
            raise ValueError(f"{self._layer.layer_name} draws {label!r} as {known.type} and as {type}")
        return self._recorder.inputs.setdefault(label, apply(Input(label, type)))

    def update(self, name: str, value: Value) -> None:
        """``value`` becomes the non-trainable parameter ``name`` after the step."""
        slot = self._layer.slot(name)
        if slot.trainable:
            raise ValueError(f"{name} is trainable: only non-trainable state is updated by the layer itself")
        if value.type != slot.type:
            raise ValueError(f"the update of {name} must be {slot.type}, got {value.type}")
        self._recorder.updates[self._place.label(name)] = value

    def active(self, name: str, mask: Value) -> None:
        """Only the part of parameter ``name`` where the bool ``mask`` holds takes part in this step."""
        self._recorder.active[self._place.label(name)] = mask

    def call(self, layer: Layer, x: Value) -> Value:
        """The output of a child layer at ``x``."""
        if layer not in self._recorder.places:
            raise ValueError(f"{layer.layer_name} is no child of {self._layer.layer_name}: register it with add_child")
        self._recorder.note(x, self._place.path)
        return build(layer, self._recorder, x)

    def carry(self, old: Value, new: Value) -> None:
        """``new`` takes the place of ``old`` and belongs to the same module."""
        note = self._recorder.notes.get(old)
        if note is not None and new.operands:
            self._recorder.notes.setdefault(new, note)

    def of(self, layer: Layer) -> Context:
        """The context of a child, for those who use its parameters rather than call it."""
        return Context(layer, self._recorder)


@lru_cache(maxsize=8192)
def _parameter(label: str, dtype: np.dtype[Any], shape: tuple[int, ...], trainable: bool) -> Value:
    return apply(Parameter(label, TensorType(dtype, shape), trainable))


def build(layer: Layer, recorder: Recorder, x: Value) -> Value:
    """Run ``layer.build`` and note what it made as belonging to its path.

    TypeError unless it returns a Value, ValueError unless that ends in the shape the layer declares for such an ``x``.
    """
    declared = declared_shape(layer, x.shape)
    y = layer.build(Context(layer, recorder), x)
    if not isinstance(y, Value):
        raise TypeError(f"{layer.layer_name}.build must return a Value, got {y!r}")
    if not ends_in(y.shape, declared[len(declared) - len(layer.output_shape) :]):
        raise ValueError(f"{layer.layer_name} is to give {show(layer.output_shape)} but builds {show(y.shape)}")
    recorder.note(y, recorder.places[layer].path)
    return y


def trace(
    layer: Layer,
    input_shape: Sequence[int | str | Dim] | None = None,
    training: bool | None = None,
    *,
    places: Mapping[Layer, Place] | None = None,
    annotate: bool = True,
) -> Trace:
    """The graph of ``layer`` for inputs of ``input_shape``, in its own mode, or in the one that ``training`` sets.

    ``places`` saves walking the tree where that was done already; without ``annotate`` the graph has no notes.
    """
    shape = shape_of(("batch", *layer.input_shape) if input_shape is None else input_shape)
    recorder = Recorder(layer.places() if places is None else places, training, annotate)
    x: Value = apply(Input(INPUT, TensorType(layer.input_dtype, shape)))
    y = build(layer, recorder, x)
    graph = Graph((x, *recorder.inputs.values()), {"y": y}, recorder.notes, layer.layer_name)
    return Trace(graph, tuple(recorder.draws.values()), recorder.updates, recorder.active)


def declared_shape(layer: Layer, shape: Shape) -> Shape:
    """The shape that ``layer`` declares to give for inputs of ``shape``; ValueError if it does not take such.

    The names in its declared shapes stand for what flows in there; leading axes are kept.
    """
    lead = len(shape) - len(layer.input_shape)
    binding: dict[str, Dim] = {}
    for declared, size in zip(layer.input_shape, shape[max(lead, 0) :], strict=False):
        name = plain_name(declared)
        if name is not None:
            binding.setdefault(name, size)
    if not ends_in(shape, tuple(substitute(size, binding) for size in layer.input_shape)):
        raise ValueError(f"{layer.layer_name} takes inputs that end in {show(layer.input_shape)}, got {show(shape)}")
    return (*shape[:lead], *(substitute(size, binding) for size in layer.output_shape))


def lead_names(rank: int) -> tuple[str, ...]:
    """Names for ``rank`` leading axes: batch, then axis1, axis2 …"""
    return tuple("batch" if i == 0 else f"axis{i}" for i in range(rank))


def batched(sample: Shape, rank: int) -> Shape:
    """The shape of an input of ``rank`` axes that ends in ``sample``."""
    return (*shape_of(lead_names(rank - len(sample))), *sample)


def bind_input(name: str, sample: Shape, shape: Sequence[int]) -> dict[str, int]:
    """The sizes of all named axes of the input ``name``; ValueError if it does not end in ``sample``."""
    binding: dict[str, int] = {}
    if not fits(batched(sample, len(shape)), shape, binding):
        raise ValueError(f"{name} must end in {show(sample)}, got shape {tuple(shape)}")
    return binding


def ends_in(shape: Shape, sample: Shape) -> bool:
    """Whether the last axes of ``shape`` can be ``sample``; dimensions that are not known to differ fit."""
    lead = len(shape) - len(sample)
    return lead >= 0 and all(a == b or not isinstance(a - b, int) for a, b in zip(shape[lead:], sample, strict=True))
