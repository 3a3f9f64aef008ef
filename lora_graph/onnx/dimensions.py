"""Sizes as int64 tensors: the shape arithmetic of an exported model, emitted once for each dimension."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from lora_graph.ir import dims
from lora_graph.ir.dims import Atom, Call, Dim, Monomial, Shape, SymbolicDim
from lora_graph.ir.types import show


class Emit(Protocol):
    def __call__(
        self, op_type: str, operands: Sequence[str], attributes: dict[str, Any], shape: Shape, of: str
    ) -> str: ...


class Dimensions:
    """Emits the nodes that compute dimensions from Shape nodes of values whose shape holds them.

    ``offer`` names a value whose axes are the dimensions of a shape. Every element is an int64 tensor ``[1]``.
    """

    def __init__(self, emit: Emit, constant: Callable[[Any], str]) -> None:
        self._emit = emit
        self._constant = constant
        self._sources: dict[Dim, tuple[str, int]] = {}
        self._elements: dict[Dim, str] = {}
        self._vectors: dict[Shape, str] = {}

    def offer(self, name: str, shape: Shape, *, expressions: bool) -> None:
        """Let ``name`` be where the dimensions of ``shape`` that nothing before had are measured."""
        for axis, size in enumerate(shape):
            if isinstance(size, SymbolicDim) and (expressions or dims.plain_name(size)):
                self._sources.setdefault(size, (name, axis))

    def vector(self, shape: Shape) -> str:
        """``shape`` as an int64 vector."""
        if all(isinstance(size, int) for size in shape):
            return self._constant(np.asarray(shape, np.int64))
        if shape not in self._vectors:
            parts = [self.element(size) for size in shape]
            joined = (
                parts[0] if len(parts) == 1 else self._emit("Concat", parts, {"axis": 0}, (len(parts),), show(shape))
            )
            self._vectors[shape] = joined
        return self._vectors[shape]

    def scalar(self, size: Dim) -> str:
        """``size`` as an int64 scalar."""
        axes = self._constant(np.zeros(1, np.int64))
        return self._emit("Squeeze", [self.element(size), axes], {}, (), str(size))

    def element(self, size: Dim) -> str:
        if isinstance(size, int):
            return self._constant(np.asarray([size], np.int64))
        if size not in self._elements:
            self._elements[size] = self._measured(size) if size in self._sources else self._computed(size)
        return self._elements[size]

    def _measured(self, size: SymbolicDim) -> str:
        source, axis = self._sources[size]
        return self._emit("Shape", [source], {"start": axis, "end": axis + 1}, (1,), str(size))

    def _computed(self, size: SymbolicDim) -> str:
        if dims.plain_name(size):
            raise ValueError(f"dimension {size} is not that of any input or value, so it cannot be known when running")
        total = ""
        for monomial, coefficient in sorted(size.terms, key=lambda term: term[1] < 0):
            term = self._product(monomial, abs(coefficient))
            if coefficient > 0:
                total = self._binary("Add", total, term, size) if total else term
            else:
                total = self._binary("Sub", total or self.element(0), term, size)
        return total

    def _product(self, monomial: Monomial, coefficient: int) -> str:
        product = self.element(coefficient) if coefficient != 1 or not monomial else ""
        for atom in monomial:
            factor = self._atom(atom)
            product = self._binary("Mul", product, factor, "*".join(map(str, monomial))) if product else factor
        return product

    def _atom(self, atom: Atom) -> str:
        whole = SymbolicDim((((atom,), 1),))
        if whole in self._sources or isinstance(atom, str):
            return self.element(whole)
        if whole not in self._elements:
            self._elements[whole] = self._call(atom)
        return self._elements[whole]

    def _call(self, call: Call) -> str:
        left, right = self.element(call.left), self.element(call.right)
        if call.function != "//":
            return self._binary(call.function.capitalize(), left, right, call)
        if not dims.is_size(call.left):
            # Div rounds towards zero, a dimension rounds down: take the (never negative) remainder off first
            left = self._binary("Sub", left, self._binary("Mod", left, right, call), call)
        return self._binary("Div", left, right, call)

    def _binary(self, op_type: str, left: str, right: str, of: object) -> str:
        return self._emit(op_type, [left, right], {}, (1,), str(of))
