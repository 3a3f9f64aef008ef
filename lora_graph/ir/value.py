"""Values: immutable, typed, hash-consed applications of ops to Values."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from lora_graph.ir.dims import Dim, Shape, SymbolicDim
from lora_graph.ir.expression import Expression
from lora_graph.ir.op import OPS, Op
from lora_graph.ir.types import TensorType, TupleType, Type, normalize_axis


class Value(Expression):
    """An application of ``op`` to ``operands``. The same application is always the same object."""

    __slots__ = ("__weakref__", "_type", "op", "operands")

    op: Op
    operands: tuple[Value, ...]
    _type: Type

    def __new__(cls, *_: object) -> Value:
        raise TypeError("Values are made by applying ops: lg.ops.input(...), x + y, lg.ops.tanh(x)")

    def __setattr__(self, name: str, _: object) -> None:
        raise AttributeError(f"a Value is immutable: cannot set {name!r}")

    def __copy__(self) -> Value:
        return self

    def __deepcopy__(self, _: object) -> Value:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        from lora_graph.ir.text import dump_value, load_value

        return load_value, (dump_value(self),)

    def __bool__(self) -> bool:
        raise TypeError("a Value has no truth value: it is computed when the graph runs; use lg.ops.where")

    def __iter__(self) -> Iterator[Value]:
        raise TypeError("a Value cannot be iterated over; index it, x[0]")

    def __repr__(self) -> str:
        return f"<{self.op.name}: {self._type}>"

    @property
    def result_type(self) -> Type:
        """The type, also of an op with several results."""
        return self._type

    @property
    def type(self) -> TensorType:
        """The element type and the shape; TypeError for an op with several results."""
        if isinstance(self._type, TupleType):
            raise TypeError(f"{self.op.name} has {len(self._type.items)} results: take one with lg.ops.project")
        return self._type

    @property
    def shape(self) -> Shape:
        """One dimension an axis: an int, a name or an expression of names."""
        return self.type.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.type.dtype

    @property
    def rank(self) -> int:
        """The number of axes."""
        return len(self.type.shape)

    ndim = rank

    @property
    def size(self) -> Dim:
        """The number of elements, as a dimension."""
        return self.type.size

    @property
    def flops(self) -> Dim:
        """The arithmetic operations of this one application, as a dimension; see :meth:`Op.flops`."""
        return self.op.flops(self._type, *[operand._type for operand in self.operands])  # type: ignore[no-any-return, arg-type]

    def _apply(self, op: Op, *operands: Any) -> Value:
        result: Value = apply(op, *operands)
        return result

    def reshape(self, *shape: int | str | SymbolicDim | Sequence[int | str | SymbolicDim]) -> Value:
        """Row-major reshape; one ``-1`` is inferred, as in NumPy."""
        return OPS["Reshape"].to(self, _varargs(shape))  # type: ignore[attr-defined, no-any-return]

    def transpose(self, *perm: int | Sequence[int]) -> Value:
        """The axes in the order ``perm``, reversed by default."""
        order = [normalize_axis(axis, self.rank, "Transpose") for axis in _varargs(perm)]
        return apply(OPS["Transpose"](perm=tuple(order or reversed(range(self.rank)))), self)

    @property
    def T(self) -> Value:
        """The transpose: all axes in reverse order."""
        return self.transpose()

    def swapaxes(self, axis1: int, axis2: int) -> Value:
        """With two axes exchanged."""
        perm = list(range(self.rank))
        first, second = (normalize_axis(axis, self.rank, "Transpose") for axis in (axis1, axis2))
        perm[first], perm[second] = second, first
        return self.transpose(perm)

    def squeeze(self, axis: int | Sequence[int] | None = None) -> Value:
        """Without these axes of length 1; by default without all that are known to be."""
        ones = [i for i, size in enumerate(self.shape) if size == 1]
        axes = ones if axis is None else axis if isinstance(axis, Sequence) else (axis,)
        return apply(OPS["Squeeze"](tuple(axes)), self) if axes else self

    def clip(self, low: Any, high: Any) -> Value:
        """Held between the scalars ``low`` and ``high``."""
        return apply(OPS["Clip"](), self, lift(low, self.type), lift(high, self.type))

    def argmax(self, axis: int, keepdims: bool = False) -> Value:
        """The index of the first maximum along ``axis``, as int64."""
        return apply(OPS["ArgMax"](normalize_axis(axis, self.rank, "ArgMax"), int(keepdims)), self)

    def astype(self, dtype: npt.DTypeLike) -> Value:
        """Cast to ``dtype``."""
        return self if self.dtype == np.dtype(dtype) else apply(OPS["Cast"](to=np.dtype(dtype)), self)

    def __getitem__(self, index: Any) -> Value:
        """Basic indexing: ints, slices with int or dimension bounds, ``...`` and None."""
        return OPS["Slice"].index(self, index)  # type: ignore[attr-defined, no-any-return]


_table: weakref.WeakValueDictionary[tuple[Op, tuple[Value, ...]], Value] = weakref.WeakValueDictionary()
_lock = threading.RLock()


@overload
def apply(op: Op, *operands: Value) -> Value: ...
@overload
def apply(op: Op, *operands: Any) -> Any: ...
def apply(op: Op, *operands: Any) -> Any:
    """The Value ``op(*operands)``; Python numbers and small arrays among the operands become constants.

    Where an operand is another kind of Expression (a rule's pattern), the result is of that kind.
    """
    for operand in operands:
        if type(operand) is not Value:
            return _apply_mixed(op, operands)
    return intern(op, operands)


def intern(op: Op, operands: tuple[Value, ...]) -> Value:
    key = (op, operands)
    with _lock:
        found = _table.get(key)
        if found is not None:
            return found
        value = object.__new__(Value)
        _set(value, "op", op)
        _set(value, "operands", operands)
        _set(value, "_type", op.infer(*[operand._type if op.takes_results else operand.type for operand in operands]))
        _table[key] = value
        return value


_set: Callable[[Any, str, Any], None] = object.__setattr__


def _apply_mixed(op: Op, operands: tuple[Any, ...]) -> Any:
    for operand in operands:
        if isinstance(operand, Expression) and not isinstance(operand, Value):
            return operand._apply(op, *operands)
    like = next((operand.type for operand in operands if isinstance(operand, Value)), None)
    return intern(op, tuple(lift(operand, like) for operand in operands))


def lift(thing: Any, like: TensorType | None = None) -> Value:
    """``thing`` as a Value: a Value as it is, a number with the dtype of ``like``, an array with its own."""
    if isinstance(thing, Value):
        return thing
    if isinstance(thing, SymbolicDim):
        return apply(OPS["Dimension"](thing)).astype(like.dtype if like else np.int64)
    is_number = isinstance(thing, bool | int | float)
    if not is_number and not isinstance(thing, np.ndarray | np.generic | list | tuple):
        raise TypeError(f"expected a Value, a number or an array, got {thing!r}")
    if is_number and like is not None:
        if isinstance(thing, float) and not like.is_float:
            raise TypeError(f"the number {thing!r} does not fit a tensor of {like.dtype.name}")
        if type(thing) in (int, float):
            return _scalar(repr(thing), like.dtype, whole=type(thing) is int)
        return apply(OPS["Constant"](np.asarray(thing, like.dtype)))
    return apply(OPS["Constant"](np.asarray(thing)))


@lru_cache(maxsize=1024)
def _scalar(text: str, dtype: np.dtype[Any], *, whole: bool) -> Value:
    """A number as a constant, remembered by its text, in which -0.0 and NaN are what they are."""
    return apply(OPS["Constant"](np.asarray(int(text) if whole else float(text), dtype)))


def topological(outputs: Iterable[Value], stop: Callable[[Value], bool] | None = None) -> list[Value]:
    """Every Value that ``outputs`` depend on, operands first; Values for which ``stop`` holds are left out.

    The order is that of a depth-first walk over operands from left to right, so it depends on the graph alone.
    """
    order: list[Value] = []
    opened: set[Value] = set()
    done: set[Value] = set()
    stack = list(outputs)[::-1]
    while stack:
        value = stack[-1]
        if value in done or (value not in opened and stop is not None and stop(value)):
            stack.pop()
        elif value in opened or not value.operands:
            stack.pop()
            done.add(value)
            order.append(value)
        else:
            opened.add(value)
            stack += value.operands[::-1]
    return order


def _varargs(items: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(items[0]) if len(items) == 1 and isinstance(items[0], list | tuple) else items
