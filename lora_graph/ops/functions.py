"""The element-wise ops and reductions as plain functions, for those who prefer ``ops.exp(x)`` to ``x.exp()``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from lora_graph.ir.op import Op
from lora_graph.ir.value import apply
from lora_graph.ops import elementwise as e
from lora_graph.ops import reduce as r


def _unary(op: type[Op]) -> Callable[[Any], Any]:
    def function(x: Any) -> Any:
        return apply(op(), x)

    function.__doc__ = op.__doc__
    function.__name__ = function.__qualname__ = op.__name__.lower()
    return function


def _binary(op: type[Op]) -> Callable[[Any, Any], Any]:
    def function(a: Any, b: Any) -> Any:
        return apply(op(), a, b)

    function.__doc__ = op.__doc__
    function.__name__ = function.__qualname__ = op.__name__.lower()
    return function


def _reduction(op: type[r.Reduction]) -> Callable[..., Any]:
    def function(x: Any, axis: int | Sequence[int] | None = None, keepdims: bool = False) -> Any:
        return x._reduce(op.__name__, axis, keepdims)

    function.__doc__ = op.__doc__
    function.__name__ = function.__qualname__ = op.__name__.lower()
    return function


abs, neg, exp, log, sqrt = map(_unary, (e.Abs, e.Neg, e.Exp, e.Log, e.Sqrt))  # noqa: A001
reciprocal, sin, cos, floor, ceil = map(_unary, (e.Reciprocal, e.Sin, e.Cos, e.Floor, e.Ceil))
is_nan, logical_not = map(_unary, (e.IsNaN, e.Not))
add, sub, mul, div, pow, mod = map(_binary, (e.Add, e.Sub, e.Mul, e.Div, e.Pow, e.Mod))  # noqa: A001
equal, greater, less = map(_binary, (e.Equal, e.Greater, e.Less))
greater_or_equal, less_or_equal = map(_binary, (e.GreaterOrEqual, e.LessOrEqual))
logical_and, logical_or, logical_xor = map(_binary, (e.And, e.Or, e.Xor))
reduce_sum, reduce_mean = map(_reduction, (r.ReduceSum, r.ReduceMean))
reduce_max, reduce_min, reduce_prod = map(_reduction, (r.ReduceMax, r.ReduceMin, r.ReduceProd))
