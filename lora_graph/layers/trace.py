"""Tracing: a layer's ``build`` run once on symbolic inputs, giving its graph."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from lora_graph.ir.dims import sizes
from lora_graph.ir.graph import Graph, Note
from lora_graph.ir.leaves import Input, Parameter
from lora_graph.ir.types import Array, TensorType, show
from lora_graph.ir.value import Value, apply, topological
from lora_graph.layers.interface import alone, by_name, declared_shapes, each, ends_in

if TYPE_CHECKING:
    from lora_graph.layers.layer import Layer

Given = Any
"""A Value, or Values by name for a layer with several inputs or outputs."""

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
    taken: Collection[str] = ()
    """The names of the inputs, which no draw may have."""
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
        if label in self._recorder.taken or not name or "." in name:
            inputs = ", ".join(map(repr, self._recorder.taken))
            raise ValueError(f"a draw is named by a string without dots, other than {inputs}, got {name!r}")
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

    @overload
    def call(self, layer: Layer, x: Value) -> Value: ...
    @overload
    def call(self, layer: Layer, x: Given) -> Given: ...
    def call(self, layer: Layer, x: Given) -> Given:
        """The output of a child layer at ``x``: a Value, or a dict of Values by name where it has several."""
        if layer not in self._recorder.places:
            raise ValueError(f"{layer.layer_name} is no child of {self._layer.layer_name}: register it with add_child")
        each(x, lambda value: self._recorder.note(value, self._place.path))
        return build(layer, self._recorder, x)

    def claim(self, value: Value, scope: str, rules: tuple[str, ...] = ()) -> None:
        """``value`` belongs to the module ``scope`` of this layer, which is no layer itself; ``rules`` made it."""
        if (scope or rules) and value.operands and self._recorder.annotate:
            path = self._place.label(scope) if scope else self._place.path
            self._recorder.notes.setdefault(value, Note(scope=path, rules=rules))

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


def build(layer: Layer, recorder: Recorder, x: Given) -> Given:
    """Run ``layer.build`` and note what it made as belonging to its path.

    TypeError unless it returns a Value (a dict of Values for a layer with several outputs), ValueError unless these end
    in the shapes that the layer declares for such an ``x``.
    """
    given = by_name(list(layer.input_shapes), x, "input")
    # a layer of one rank checks for itself what it is given
    declared = declared_shapes(layer, {name: v.shape for name, v in given.items()}) if layer.any_rank else {}
    y = layer.build(Context(layer, recorder), alone(given))
    built = by_name(list(layer.output_shapes), y, "output")
    for name, value in built.items():
        if not isinstance(value, Value):
            raise TypeError(f"{layer.layer_name}.build must return a Value, got {value!r}")
        sample = layer.output_shapes[name]
        if layer.any_rank and not ends_in(value.shape, declared[name][len(declared[name]) - len(sample) :]):
            raise ValueError(f"{layer.layer_name} is to give {show(sample)} but builds {show(value.shape)}")
        recorder.note(value, recorder.places[layer].path)
    return y


def trace(
    layer: Layer,
    types: Mapping[str, TensorType] | None = None,
    training: bool | None = None,
    *,
    places: Mapping[Layer, Place] | None = None,
    annotate: bool = True,
) -> Trace:
    """The graph of ``layer`` for inputs of ``types``, in its own mode, or in the one that ``training`` sets.

    ``places`` saves walking the tree where that was done already; without ``annotate`` the graph has no notes.
    """
    leaves = {name: apply(Input(name, kind)) for name, kind in (layer.inputs if types is None else types).items()}
    recorder = Recorder(layer.places() if places is None else places, training, annotate, frozenset(leaves))
    y = by_name(list(layer.output_shapes), build(layer, recorder, alone(leaves)), "output")
    graph = Graph((*leaves.values(), *recorder.inputs.values()), y, recorder.notes, layer.layer_name)
    return Trace(graph, tuple(recorder.draws.values()), recorder.updates, recorder.active)
