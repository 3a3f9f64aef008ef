"""What a layer takes and gives, by name: x and y for most, the names in its file for an imported model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, TypeVar

import numpy as np

from lora_graph import checks
from lora_graph.ir.dims import Dim, Shape, fits, plain_name, shape_of, substitute
from lora_graph.ir.types import Array, TensorType, show, tensor

INPUT, OUTPUT = "x", "y"
"""What the only input and the only output of a layer are called, unless it says otherwise."""

Axes = Sequence[int | str | Dim]
T = TypeVar("T")


class Interface:
    """What follows from the per-sample shapes of inputs and outputs by name."""

    input_shapes: dict[str, Shape]
    output_shapes: dict[str, Shape]
    dtype: np.dtype[Any]
    layer_name: str
    any_rank: bool = True
    """Whether inputs may have any number of batch axes, one graph for each number; else those of ``inputs``."""

    @property
    def input_shape(self) -> Shape:
        """The per-sample shape of the only input; ValueError where there are several."""
        return self._sole(self.input_shapes, "input")

    @property
    def output_shape(self) -> Shape:
        """The per-sample shape of the only output; ValueError where there are several."""
        return self._sole(self.output_shapes, "output")

    def _sole(self, items: Mapping[str, T], what: str) -> T:
        if len(items) != 1:
            raise ValueError(f"{self.layer_name} has the {what}s {', '.join(items) or 'none'}: see {what}_shapes")
        return next(iter(items.values()))

    @property
    def input_dtype(self) -> np.dtype[Any]:
        """The dtype inputs are cast to."""
        return self.dtype

    @property
    def inputs(self) -> dict[str, TensorType]:
        """The types of the inputs for a batch of samples, by name."""
        return {name: tensor(self.input_dtype, ("batch", *shape)) for name, shape in self.input_shapes.items()}


def ports(spec: Axes | Mapping[str, Axes], name: str) -> dict[str, Shape]:
    """Shapes by name; a shape by itself is that of ``name``."""
    given = spec if isinstance(spec, Mapping) else {name: spec}
    return {key: shape_of(shape) for key, shape in given.items()}


def alone(items: Mapping[str, T]) -> T | dict[str, T]:
    """The only item as it is; several as a dict by name."""
    return next(iter(items.values())) if len(items) == 1 else dict(items)


def by_name(names: Sequence[str], given: Any, what: str) -> dict[str, Any]:
    """``given``, a dict or the only thing of its kind, under ``names``; ValueError unless it is one for each of them.

    ``what`` says what it is, in the singular.
    """
    if not isinstance(given, Mapping):
        if len(names) != 1:
            raise ValueError(f"expected a dict with one {what} for each of {', '.join(names)}, got one by itself")
        return {names[0]: given}
    for name in [*given, *names]:
        if name not in given or name not in names:
            problem = f"unknown {what} {name!r}" if name in given else f"{what} {name!r} is missing"
            raise ValueError(f"{problem}; expected {', '.join(names) or 'none'}")
    return {name: given[name] for name in names}


def label_of(what: str, name: str, count: int) -> str:
    """How a message calls one of ``count`` inputs."""
    return what if count == 1 else f"{what} {name!r}"


def _sizes(declared: TensorType, binding: Mapping[str, int]) -> str:
    """The sizes of named axes that are known from other inputs."""
    known = [f"{axis} = {binding[str(axis)]}" for axis in declared.shape if str(axis) in binding]
    return f" with {', '.join(known)}" if known else ""


@dataclass(frozen=True)
class Feed:
    """Arrays for the inputs of a layer, the types of inputs such as these, and the sizes of their named axes."""

    arrays: dict[str, Array]
    types: dict[str, TensorType]
    binding: dict[str, int]
    samples: int
    """How many samples they hold: the product of the leading axes."""


def feed(layer: Interface, x: Any, what: str = "x") -> Feed:
    """``x``, an array or a dict of arrays by name, as what ``layer`` takes; ``what`` is its name in messages."""
    declared = layer.inputs
    given = by_name(list(declared), x, "input")
    arrays = {
        name: checks.numeric(label_of(what, name, len(declared)), given[name], kind.dtype)
        for name, kind in declared.items()
    }
    types = input_types(layer, {name: array.ndim for name, array in arrays.items()})
    binding: dict[str, int] = {}
    for name, array in arrays.items():
        before = dict(binding)
        if not fits(types[name].shape, array.shape, binding):
            label, sample = label_of(what, name, len(declared)), layer.input_shapes[name]
            exact = f"be {declared[name]}{_sizes(declared[name], before)}"
            wanted = f"end in {show(sample)}" if layer.any_rank else exact
            raise ValueError(f"{label} must {wanted}, got shape {array.shape}")
    sizes = (array.shape[: array.ndim - len(layer.input_shapes[name])] for name, array in arrays.items() if array.ndim)
    return Feed(arrays, types, binding, prod(next(sizes, ())))


def input_types(layer: Interface, ranks: Mapping[str, int]) -> dict[str, TensorType]:
    """The types of inputs with so many axes: those that a layer declares, with any number of batch axes in front."""
    if not layer.any_rank:
        return layer.inputs
    return {
        name: TensorType(kind.dtype, batched(layer.input_shapes[name], ranks[name]))
        for name, kind in layer.inputs.items()
    }


def shaped(layer: Interface, input_shape: Axes | Mapping[str, Axes] | None) -> dict[str, TensorType]:
    """The types of the inputs of ``layer``, with the shapes that ``input_shape`` gives."""
    declared = layer.inputs
    if input_shape is None:
        return declared
    given = by_name(list(declared), input_shape, "shape of an input")
    return {name: kind.with_shape(shape_of(given[name])) for name, kind in declared.items()}


def declared_shapes(layer: Interface, given: Mapping[str, Shape]) -> dict[str, Shape]:
    """The shapes that ``layer`` declares to give for inputs of these shapes; ValueError if it does not take such.

    The names in its declared shapes stand for what flows in there; leading axes are kept.
    """
    binding: dict[str, Dim] = {}
    for name, sample in layer.input_shapes.items():
        lead = len(given[name]) - len(sample)
        bind(sample, given[name][max(lead, 0) :], binding)
    kept: Shape = ()
    for name, sample in layer.input_shapes.items():
        shape = given[name]
        if not ends_in(shape, tuple(substitute(size, binding) for size in sample)):
            which = label_of("inputs", name, len(layer.input_shapes))
            raise ValueError(f"{layer.layer_name} takes {which} that end in {show(sample)}, got {show(shape)}")
        kept = max(kept, shape[: len(shape) - len(sample)], key=len)
    return {
        name: (*kept, *(substitute(size, binding) for size in sample)) for name, sample in layer.output_shapes.items()
    }


def declared_shape(layer: Interface, shape: Shape) -> Shape:
    """As :func:`declared_shapes`, for a layer with one input and one output."""
    (name,) = layer.input_shapes
    (found,) = declared_shapes(layer, {name: shape}).values()
    return found


def bind(declared: Shape, given: Shape, binding: dict[str, Dim]) -> None:
    """Let the names in ``declared`` that are new stand for the dimensions of ``given``."""
    for size, actual in zip(declared, given, strict=False):
        name = plain_name(size)
        if name is not None:
            binding.setdefault(name, actual)


def batched(sample: Shape, rank: int) -> Shape:
    """The shape of an input of ``rank`` axes that ends in ``sample``: batch, axis1, axis2 … stand in front."""
    return (*shape_of(lead_names(rank - len(sample))), *sample)


def lead_names(rank: int) -> tuple[str, ...]:
    """Names for ``rank`` leading axes: batch, then axis1, axis2 …"""
    return tuple("batch" if i == 0 else f"axis{i}" for i in range(rank))


def ends_in(shape: Shape, sample: Shape) -> bool:
    """Whether the last axes of ``shape`` can be ``sample``; dimensions that are not known to differ fit."""
    lead = len(shape) - len(sample)
    return lead >= 0 and all(a == b or not isinstance(a - b, int) for a, b in zip(shape[lead:], sample, strict=True))


def described(shapes: Mapping[str, Shape]) -> str:
    """Shapes as text, with their names where there are several."""
    if len(shapes) == 1:
        return show(next(iter(shapes.values())))
    return ", ".join(f"{name} {show(shape)}" for name, shape in shapes.items())


def each(given: Any, function: Callable[[Any], Any]) -> Any:
    """``function`` of the only thing, or of each in a dict by name."""
    if isinstance(given, Mapping):
        return {name: function(item) for name, item in given.items()}
    return function(given)
