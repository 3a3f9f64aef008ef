"""The two layouts in which many adapters stand in one model: side by side, or one behind the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np

from lora_graph.ir import dims
from lora_graph.ir.dims import Dim, Shape
from lora_graph.ir.leaves import Parameter
from lora_graph.ir.op import Op
from lora_graph.ir.types import Array, TensorType
from lora_graph.ir.value import Value, apply
from lora_graph.onnx.forms.ranks import joined, rank_axis, rank_of, widened
from lora_graph.onnx.forms.slots import Slot
from lora_graph.ops.gather import gather
from lora_graph.ops.linalg import MatMul
from lora_graph.ops.shape import expand, unsqueeze

TABLE = "adapter.columns"
"""What tells columns apart: for none, and then for each adapter, 1 at its columns and 0 elsewhere."""

ADAPTERS: Dim = dims.dim("adapters")
"""How many adapters there are, and one more."""


Builders = dict[Value, Callable[..., Value]]
"""What takes the place of a Value, as a function of its new operands."""


@dataclass(frozen=True)
class Stack:
    """One slot, where its matrices A and B stand in a graph, and those of each adapter (None where it has none here).

    ``inner`` is what A gives, and ``outer`` what B gives for that, at each of the places where they are used.
    """

    slot: Slot
    leaves: Mapping[str, Value]
    inner: tuple[Value, ...]
    outer: tuple[Value, ...]
    arrays: tuple[Mapping[str, Array] | None, ...]

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.leaves["A"].dtype

    @property
    def is_product(self) -> bool:
        """Whether it is x A B wherever it is used."""
        found = [(v.op, v.operands[1]) for v in (*self.inner, *self.outer)]
        wanted = [self.leaves["A"]] * len(self.inner) + [self.leaves["B"]] * len(self.outer)
        is_all = all(isinstance(op, MatMul) and have is want for (op, have), want in zip(found, wanted, strict=True))
        return is_all and {value.operands[0] for value in self.outer} == {*self.inner}

    @property
    def ranks(self) -> list[int]:
        return [0 if arrays is None else rank_of(self.slot, arrays) for arrays in self.arrays]

    def parameters(self, shapes: Mapping[str, Shape]) -> dict[str, Value]:
        """New Parameters for A and B of these shapes."""
        names = self.slot.parameters
        return {own: apply(Parameter(names[own], TensorType(self.dtype, shapes[own]), False)) for own in self.leaves}


class Layout(Protocol):
    """``arrays`` are those of all adapters by name; ``builders`` put them into a graph, ``row`` being a sample's."""

    def arrays(self, stacks: list[Stack]) -> dict[str, Array]: ...
    def builders(self, stacks: list[Stack], row: Value) -> Builders: ...


class Columns:
    """x [A₁ … Aₖ], with 0 in every column that is not of the sample's adapter, times [B₁; … Bₖ].

    An adapter is as wide everywhere as where it is widest, so that one table of columns serves the whole model.
    """

    def arrays(self, stacks: list[Stack]) -> dict[str, Array]:
        widths = [max(ranks) for ranks in zip(*(stack.ranks for stack in stacks), strict=True)]
        dtype = stacks[0].dtype
        owners = np.repeat(np.arange(len(widths)), widths)
        found: dict[str, Array] = {TABLE: (owners == np.arange(-1, len(widths))[:, None]).astype(dtype)}
        for stack in stacks:
            wide = [widened(stack.slot, a, width, dtype) for a, width in zip(stack.arrays, widths, strict=True)]
            for own, name in stack.slot.parameters.items():
                found[name] = joined(stack.slot, own, [arrays[own] for arrays in wide])
        return found

    def builders(self, stacks: list[Stack], row: Value) -> Builders:
        columns = dims.dim("columns")
        table: Value = apply(Parameter(TABLE, TensorType(stacks[0].dtype, (ADAPTERS, columns)), False))
        gate = gather(table, row)
        found: Builders = {}
        for stack in stacks:
            found |= {
                stack.leaves[own]: _always(leaf) for own, leaf in stack.parameters(stack.slot.shapes(columns)).items()
            }
            groups = rank_axis(stack.slot, "A")[1]
            for inner in stack.inner:
                found[inner] = partial(self._gated, inner.op, gate, columns, groups)
        return found

    @staticmethod
    def _gated(op: Op, gate: Value, columns: Dim, groups: int, *operands: Value) -> Value:
        """What all columns of A give, with those of other adapters set to 0."""
        inner: Value = apply(op, *operands)
        return inner * _beside(gate, inner, columns, groups)


class Rows:
    """x A[i] B[i], with the matrices of each sample taken from stacks A ``[K + 1, in, r]`` and B ``[K + 1, r, out]``.

    The first ones are 0. Only products of matrices have this layout.
    """

    def arrays(self, stacks: list[Stack]) -> dict[str, Array]:
        found: dict[str, Array] = {}
        for stack in stacks:
            rank = max(stack.ranks)
            wide = [widened(stack.slot, a, rank, stack.dtype) for a in (None, *stack.arrays)]
            for own, name in stack.slot.parameters.items():
                found[name] = np.stack([arrays[own] for arrays in wide])
        return found

    def builders(self, stacks: list[Stack], row: Value) -> Builders:
        found: Builders = {}
        for number, stack in enumerate(stacks):
            shapes = stack.slot.shapes(dims.dim(f"rank_{number}"))
            leaves = stack.parameters({own: (ADAPTERS, *shape) for own, shape in shapes.items()})
            own = {key: gather(leaf, row) for key, leaf in leaves.items()}
            found |= {inner: partial(self._first, own["A"]) for inner in stack.inner}
            found |= {outer: partial(self._second, own["B"], outer.rank) for outer in stack.outer}
        return found

    @staticmethod
    def _first(a: Value, x: Value, _: Value) -> Value:
        """x A of every sample, as ``[batch, …, positions, rank]``."""
        return (x if x.rank > 2 else unsqueeze(x, 1)) @ unsqueeze(a, tuple(range(1, x.rank - 2)))

    @staticmethod
    def _second(b: Value, rank: int, inner: Value, _: Value) -> Value:
        y = inner @ unsqueeze(b, tuple(range(1, inner.rank - 2)))
        return y if rank > 2 else y.squeeze(1)


def _always(value: Value) -> Callable[..., Value]:
    return lambda *_: value


def _beside(gate: Value, inner: Value, columns: Dim, groups: int) -> Value:
    """``gate`` ``[batch, columns]`` in a shape that broadcasts to ``inner``, whose columns come in so many groups."""
    (at,) = [axis for axis, size in enumerate(inner.shape) if size == columns * groups]
    batch = inner.shape[0]
    if groups > 1:
        gate = expand(unsqueeze(gate, 1), (batch, groups, columns)).reshape((batch, groups * columns))
    return unsqueeze(gate, tuple(axis for axis in range(1, inner.rank) if axis != at))
