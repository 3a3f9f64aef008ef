"""What a graph is given: arrays checked against its inputs and parameters, and the sizes of its named dimensions."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lora_graph.ir import dims
from lora_graph.ir.graph import Graph
from lora_graph.ir.leaves import Input
from lora_graph.ir.types import Array, TensorType, show
from lora_graph.ir.value import Value, topological
from lora_graph.ops.prefix import SliceTo

Binding = tuple[tuple[str, int], ...]
"""The size of each named dimension, sorted by name: what a plan is made for."""


@dataclass(frozen=True)
class Port:
    """One array that has to be given: an input, or a parameter of the state."""

    kind: str
    name: str
    leaf: Value

    @property
    def type(self) -> TensorType:
        return self.leaf.type

    def __str__(self) -> str:
        return f"{self.kind} {self.name!r}"


class Signature:
    """The ports of a graph in order: all its inputs, and the parameters not in ``without`` that outputs depend on."""

    def __init__(self, graph: Graph, without: Collection[str] = ()) -> None:
        self.inputs = [Port("input", leaf.op.label, leaf) for leaf in graph.inputs if isinstance(leaf.op, Input)]
        self.parameters = [Port("parameter", n, leaf) for n, leaf in graph.parameters.items() if n not in without]
        self.ports = (*self.inputs, *self.parameters)
        self.input_names = frozenset(port.name for port in self.inputs)
        leaves = (*graph.inputs, *graph.parameters.values())
        named = dict.fromkeys(n for leaf in leaves for d in leaf.shape for n in dims.names(d))
        cuts = [(value.op.size, value.operands[1]) for value in graph.values if isinstance(value.op, SliceTo)]
        self._computed = list(dict.fromkeys((name, n) for size, n in cuts if (name := dims.plain_name(size))))
        self.dim_names = tuple(dict.fromkeys([*named, *(name for name, _ in self._computed)]))
        self.assumptions = tuple(graph.assumptions) if self.dim_names else ()

    def arrays(self, inputs: Mapping[str, Any], state: Mapping[str, Array]) -> list[Array]:
        """One array a port, inputs first; TypeError or ValueError naming the port that is not satisfied."""
        if not isinstance(inputs, Mapping):
            raise TypeError(f"inputs must be a mapping from names to arrays, got {type(inputs).__name__}")
        if len(inputs) != len(self.inputs) or not self.input_names.issuperset(inputs):
            raise ValueError(f"the inputs are {sorted(self.input_names)}, got {sorted(map(str, inputs))}")
        return [as_input(port, inputs[port.name]) for port in self.inputs] + read_state(self.parameters, state)

    def computed(self, arrays: Sequence[Array]) -> Binding:
        """The sizes that follow from what the arrays of all ports hold, rather than from their shapes."""
        if not self._computed:
            return ()
        known: dict[Value, Any] = {port.leaf: array for port, array in zip(self.ports, arrays, strict=True)}
        for value in topological([n for _, n in self._computed], stop=known.__contains__):
            known[value] = value.op.evaluate(*[known[operand] for operand in value.operands])
        return tuple((name, int(known[n].item())) for name, n in self._computed)

    def bind(self, arrays: Sequence[Array], fixed: Sequence[tuple[Port, Array]] = ()) -> Binding:
        """The sizes of the named dimensions, given the arrays of all ports; ValueError where shapes do not fit.

        ``fixed`` are ports outside this signature that were given before.
        """
        computed = self.computed(arrays)
        sizes = dict(computed)
        origin = dict.fromkeys(sizes, "a slice to a computed length")
        for length, size in computed:
            if sizes[length] != size:
                raise ValueError(f"slices to a computed length have {length} as {sizes[length]} and as {size}")
        unlike = [
            (port, array)
            for port, array in [*zip(self.ports, arrays, strict=True), *fixed]
            if port.type.shape != array.shape
        ]
        for port, array in unlike:
            check_rank(port, array)
            for axis, (dim, size) in enumerate(zip(port.type.shape, array.shape, strict=True)):
                name = dims.plain_name(dim)
                if name is not None:
                    if sizes.setdefault(name, size) != size:
                        raise ValueError(f"{port}, axis {axis}: {name} is {size} but {sizes[name]} in {origin[name]}")
                    origin.setdefault(name, f"{port}, axis {axis}")
        for port, array in unlike:
            check_shape(port, array, sizes)
        self.check(sizes)
        return tuple(sorted(sizes.items()))

    def check(self, sizes: Mapping[str, int]) -> None:
        """Raise ValueError unless what type inference took to be equal is equal for these sizes."""
        for left, right in self.assumptions:
            a, b = dims.evaluate(left, sizes), dims.evaluate(right, sizes)
            if a != b:
                wanted = b if isinstance(right, int) else f"{right}, which is {b}"
                where = ", ".join(f"{name} = {size}" for name, size in sizes.items())
                raise ValueError(f"dimension {left} is {a} but must equal {wanted} (where {where})")


def read_state(parameters: Sequence[Port], state: Mapping[str, Array]) -> list[Array]:
    """The arrays of ``parameters``, as they are; ValueError for a missing one, TypeError for a wrong dtype."""
    arrays = []
    for port in parameters:
        if port.name not in state:
            raise ValueError(f"the state has no {port}: {port.type}")
        array = state[port.name]
        if not isinstance(array, np.ndarray):
            raise TypeError(f"{port} must be an array of {port.type.dtype.name}, got {type(array).__name__}")
        if array.dtype != port.type.dtype:
            raise TypeError(f"{port} must be {port.type.dtype.name}, got {array.dtype.name}")
        arrays.append(array)
    return arrays


def as_input(port: Port, given: Any) -> Array:
    """``given`` as an array of the input's dtype: numbers become floats, ints fit or raise, other kinds are errors."""
    try:
        array = np.asarray(given)
    except ValueError as error:
        raise ValueError(f"{port} is not an array: {error}") from error
    wanted = port.type.dtype
    if array.dtype == wanted:
        return array
    is_float = TensorType(array.dtype, ()).is_float
    if port.type.is_float and (is_float or array.dtype.kind in "iu"):
        return array.astype(wanted)
    if wanted.kind in "iu" and array.dtype.kind in "iu":
        cast = array.astype(wanted)
        if not np.array_equal(cast, array):
            raise ValueError(f"{port} takes {wanted.name}, which does not hold every value of the {array.dtype.name}")
        return cast
    raise TypeError(f"{port} takes {wanted.name}, got {array.dtype.name}")


def check_rank(port: Port, array: Array) -> None:
    wanted = port.type.shape
    if len(wanted) != array.ndim:
        raise ValueError(f"{port} has {len(wanted)} axes {show(wanted)}, got {array.ndim} {show(array.shape)}")


def check_shape(port: Port, array: Array, sizes: Mapping[str, int]) -> None:
    """Raise ValueError unless ``array`` has the shape of ``port`` for these sizes."""
    for axis, (dim, size) in enumerate(zip(port.type.shape, array.shape, strict=True)):
        unknown = [name for name in dims.names(dim) if name not in sizes]
        if unknown:
            raise ValueError(f"{port}, axis {axis}: {dim} leaves the size of {unknown[0]} open")
        wanted = dims.evaluate(dim, sizes)
        if wanted != size:
            meaning = "" if isinstance(dim, int) else f" ({dim})"
            given = f"axis {axis} is {size}, not {wanted}{meaning}"
            raise ValueError(f"{port} must have the shape {show(port.type.shape)}: {given}")
