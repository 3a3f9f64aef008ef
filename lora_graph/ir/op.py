"""The base class of ops: what one operation of a graph has to say about itself."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self

import numpy as np

from lora_graph.ir.dims import Dim, Shape, SymbolicDim
from lora_graph.ir.types import Array, TensorType, Type

if TYPE_CHECKING:
    from lora_graph.ir.graph import Graph
    from lora_graph.ir.value import Value

OPS: dict[str, type[Op]] = {}
"""Every op class by name: what the parser, the importer and the generated tests walk over."""


class Lowering(Protocol):
    """What an op may ask of the exporter when its ONNX spelling is not just its own name, operands and fields."""

    opset: int

    def node(
        self,
        op_type: str,
        operands: Sequence[str],
        attributes: dict[str, Any] | None = None,
        *,
        results: int = 1,
        noted: Mapping[str, Any] | None = None,
    ) -> str:
        """Emit a node and return the name of its (first) result; ``noted`` is for whoever reads it back."""

    def type(self, operand: str) -> TensorType:
        """The type of an operand."""

    def result(self, first: str, index: int) -> str:
        """The name of result ``index`` of the node whose first result is ``first``."""

    def constant(self, value: Any, dtype: Any = None) -> str:
        """The name of an initializer that holds ``value``; equal ones are shared."""

    def shape(self, shape: Shape, *, may_infer: bool = False) -> str:
        """An int64 vector of dimensions; with ``may_infer`` it may hold a -1 that follows from the operand's size."""

    def dimension(self, size: Dim) -> str:
        """An int64 scalar."""

    def subgraph(self, body: Graph, captured: Sequence[str]) -> Any:
        """``body`` as an attribute; its last inputs are the values of these names around it."""

    def verbatim(self, op: Any, operands: Sequence[str]) -> str:
        """Emit the node that an Opaque op holds and return the name of its first result."""


class NodeView(Protocol):
    """One node of an ONNX model while it is imported."""

    opset: int
    attributes: dict[str, Any]
    operands: list[Value | None]

    def static(self, index: int) -> Array | None:
        """Operand ``index`` as an array, where it is known before the model runs."""

    def static_shape(self, index: int) -> Shape | None:
        """Operand ``index`` as dimensions, where it is known or computed from shapes."""

    def dtype(self, attribute: str) -> np.dtype[Any]:
        """The element type that ``attribute`` names."""

    def noted(self, name: str) -> Any:
        """What the exporter noted under ``name``: a number, some, or a name; it may not be true of the node."""


@dataclass(frozen=True, eq=False)
class Op:
    """One operation. The fields of a subclass are its attributes, its methods are its meaning; both are ONNX's.

    A subclass is registered under its name, which is ONNX's. It defines ``infer`` and ``evaluate``, and where they
    exist ``pullback`` (the transposed derivative, as IR), ``lower`` and ``read`` (its ONNX spelling).
    """

    elementwise: ClassVar[bool] = False
    """The result has the operands' broadcast shape and is computed element by element."""
    in_place: ClassVar[int] = 0
    """How many leading operands ``out`` may be the very memory of (where type and shape agree)."""
    commutative: ClassVar[bool] = False
    view: ClassVar[bool] = False
    """``evaluate`` computes nothing: it returns another view of its first operand's memory."""
    takes_results: ClassVar[bool] = False
    """The operand is an op with several results rather than a tensor."""
    writes_out: ClassVar[bool] = False
    """``evaluate`` takes ``out=`` and then writes its result there without an extra copy."""

    def __init_subclass__(cls, abstract: bool = False) -> None:
        if not abstract:
            OPS[cls.__name__] = cls

    def __new__(cls, *_: Any, **__: Any) -> Self:
        """An op without attributes is one object, so that comparing it is comparing addresses."""
        if attribute_names(cls):
            return object.__new__(cls)
        single = cls.__dict__.get("_single")
        if single is None:
            single = object.__new__(cls)
            type.__setattr__(cls, "_single", single)
        return single

    @property
    def name(self) -> str:
        return type(self).__name__

    @property
    def is_pure(self) -> bool:
        """Whether equal operands always give equal results, so that it may be computed ahead of time."""
        return True

    @cached_property
    def key(self) -> tuple[object, ...]:
        """What makes two ops the same: the class, and the types and bytes of all attributes."""
        return (type(self), *[_freeze(getattr(self, name)) for name in attribute_names(type(self))])

    @cached_property
    def _hash(self) -> int:
        return hash(self.key)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return self is other or (type(other) is type(self) and self.key == other.key)

    def infer(self, *operands: Any) -> Type:
        """The type of the result; ValueError or TypeError naming the operands that do not fit."""
        raise NotImplementedError(f"{self.name} has no type inference")

    def evaluate(self, *operands: Array, out: Array | None = None) -> Any:
        """The result as a NumPy array, or a tuple of arrays; written to ``out`` if ``writes_out`` and it is given."""
        raise NotImplementedError(f"{self.name} cannot be evaluated")

    def pullback(self, cotangent: Value, result: Value, *operands: Value) -> tuple[Value | None, ...]:
        """The cotangents of the operands: for y = f(x) and cotangent c, cᵀ ∂f/∂x; None where there is none.

        For an op with several results, ``cotangent`` is a tuple that holds None for unused ones.
        """
        raise NotImplementedError(f"{self.name} has no derivative")

    def is_linear(self, varying: tuple[bool, ...], operands: tuple[TensorType, ...], lead: int) -> bool:
        """Whether the result is linear in the operands marked in ``varying`` taken together, for each position of
        their first ``lead`` axes on its own (and these axes are the first of the result, too)."""
        return False

    def with_lead(self, lead: Shape) -> Op:
        """The same op for operands whose first axes are ``lead`` (only shape attributes have to change)."""
        return self

    def flops(self, result: Type, *operands: TensorType) -> Any:
        """Arithmetic operations as a dimension; a view and what only moves elements has none.

        An element-wise op is one an element, whichever function it is; a product-and-sum is two.
        """
        return result.size if self.elementwise and isinstance(result, TensorType) else 0

    def lower(self, to: Lowering, *operands: str) -> str:
        """Emit this op to an ONNX graph and return the name of the result."""
        return to.node(self.name, operands, self.attributes())

    @classmethod
    def read(cls, node: NodeView) -> Value | tuple[Value, ...]:
        """The Value, or one for each result, that an ONNX node of this name stands for."""
        from lora_graph.ir.value import apply

        attributes = {name: node.attributes[name] for name in attribute_names(cls) if name in node.attributes}
        return apply(cls(**attributes), *(operand for operand in node.operands if operand is not None))

    def attributes(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in attribute_names(type(self))}


_ATTRIBUTES: dict[type[Op], tuple[str, ...]] = {}


def attribute_names(op: type[Op]) -> tuple[str, ...]:
    """The names of an op's attributes, in order."""
    names = _ATTRIBUTES.get(op)
    if names is None:
        names = _ATTRIBUTES[op] = tuple(field.name for field in fields(op))
    return names


def _freeze(attribute: Any) -> object:
    match attribute:
        case float():
            return ("float", struct.pack("<d", attribute))
        case tuple():
            return ("tuple", *map(_freeze, attribute))
        case np.ndarray():
            return ("array", attribute.dtype.str, attribute.shape, attribute.tobytes())
        case bool() | int() | str() | bytes() | None | SymbolicDim() | TensorType() | np.dtype() | Op():
            return (type(attribute).__name__, attribute)
    from lora_graph.ir.graph import Graph

    if isinstance(attribute, Graph):
        return ("Graph", attribute)
    raise TypeError(f"an op attribute cannot be {attribute!r}: use numbers, strings, dimensions, types, tuples, graphs")
