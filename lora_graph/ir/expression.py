"""Operators and methods that read like NumPy, shared by Values and by the patterns of rewrite rules."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Self

from lora_graph.ir.op import OPS, Op


class Expression:
    """Anything that ops can be applied to."""

    __slots__ = ()

    __array_ufunc__ = None
    """Lets ``array * value`` be ours: NumPy would else take the array apart and give an array of objects."""

    def __array_function__(self, function: Callable[..., Any], *_: Any) -> Any:
        raise TypeError(
            f"numpy.{function.__name__} computes at once, but a {type(self).__name__} has no numbers before its graph "
            "runs: use lg.ops, or a method such as x.mean()"
        )

    def _apply(self, op: Op, *operands: Any) -> Self:
        """``op`` applied to ``operands``, of which at least one is like ``self``."""
        raise NotImplementedError

    def _binary(self, name: str, other: Any, *, swapped: bool = False) -> Self:
        return self._apply(OPS[name](), *((other, self) if swapped else (self, other)))

    def __add__(self, other: Any) -> Self:
        return self._binary("Add", other)

    def __radd__(self, other: Any) -> Self:
        return self._binary("Add", other, swapped=True)

    def __sub__(self, other: Any) -> Self:
        return self._binary("Sub", other)

    def __rsub__(self, other: Any) -> Self:
        return self._binary("Sub", other, swapped=True)

    def __mul__(self, other: Any) -> Self:
        return self._binary("Mul", other)

    def __rmul__(self, other: Any) -> Self:
        return self._binary("Mul", other, swapped=True)

    def __truediv__(self, other: Any) -> Self:
        return self._binary("Div", other)

    def __rtruediv__(self, other: Any) -> Self:
        return self._binary("Div", other, swapped=True)

    def __pow__(self, other: Any) -> Self:
        return self._binary("Pow", other)

    def __rpow__(self, other: Any) -> Self:
        return self._binary("Pow", other, swapped=True)

    def __matmul__(self, other: Any) -> Self:
        return self._binary("MatMul", other)

    def __rmatmul__(self, other: Any) -> Self:
        return self._binary("MatMul", other, swapped=True)

    def __mod__(self, other: Any) -> Self:
        """Of ints, with the sign of ``other``."""
        return self._binary("Mod", other)

    def __and__(self, other: Any) -> Self:
        return self._binary("And", other)

    def __or__(self, other: Any) -> Self:
        return self._binary("Or", other)

    def __xor__(self, other: Any) -> Self:
        return self._binary("Xor", other)

    def __invert__(self) -> Self:
        return self._apply(OPS["Not"](), self)

    def __lt__(self, other: Any) -> Self:
        return self._binary("Less", other)

    def __le__(self, other: Any) -> Self:
        return self._binary("LessOrEqual", other)

    def __gt__(self, other: Any) -> Self:
        return self._binary("Greater", other)

    def __ge__(self, other: Any) -> Self:
        return self._binary("GreaterOrEqual", other)

    def equal(self, other: Any) -> Self:
        """Element-wise equality (``==`` between expressions is identity, so that they can be keys)."""
        return self._binary("Equal", other)

    def __neg__(self) -> Self:
        return self._apply(OPS["Neg"](), self)

    def __abs__(self) -> Self:
        return self.abs()

    def exp(self) -> Self:
        """eˣ."""
        return self._apply(OPS["Exp"](), self)

    def log(self) -> Self:
        """ln x."""
        return self._apply(OPS["Log"](), self)

    def sqrt(self) -> Self:
        """√x."""
        return self._apply(OPS["Sqrt"](), self)

    def tanh(self) -> Self:
        """The hyperbolic tangent."""
        return self._apply(OPS["Tanh"](), self)

    def abs(self) -> Self:
        """|x|."""
        return self._apply(OPS["Abs"](), self)

    def _reduce(self, name: str, axis: int | Sequence[int] | None, keepdims: bool) -> Self:
        axes = None if axis is None else tuple(axis) if isinstance(axis, Sequence) else (axis,)
        return self if axes == () else self._apply(OPS[name](axes=axes, keepdims=int(keepdims)), self)

    def sum(self, axis: int | Sequence[int] | None = None, keepdims: bool = False) -> Self:
        """The sum along ``axis``, or of everything."""
        return self._reduce("ReduceSum", axis, keepdims)

    def mean(self, axis: int | Sequence[int] | None = None, keepdims: bool = False) -> Self:
        """The mean along ``axis``, or of everything."""
        return self._reduce("ReduceMean", axis, keepdims)

    def max(self, axis: int | Sequence[int] | None = None, keepdims: bool = False) -> Self:
        """The maximum along ``axis``, or of everything."""
        return self._reduce("ReduceMax", axis, keepdims)

    def min(self, axis: int | Sequence[int] | None = None, keepdims: bool = False) -> Self:
        """The minimum along ``axis``, or of everything."""
        return self._reduce("ReduceMin", axis, keepdims)

    def prod(self, axis: int | Sequence[int] | None = None, keepdims: bool = False) -> Self:
        """The product along ``axis``, or of everything."""
        return self._reduce("ReduceProd", axis, keepdims)

    def var(self, axis: int | Sequence[int] | None = None, keepdims: bool = False) -> Self:
        """The mean of (x - mean)²."""
        away = self - self.mean(axis, keepdims=True)
        return (away * away).mean(axis, keepdims)

    def std(self, axis: int | Sequence[int] | None = None, keepdims: bool = False) -> Self:
        """√ of :meth:`var`."""
        return self.var(axis, keepdims).sqrt()
