"""The element-wise ops and reductions as plain functions, for those who prefer ``ops.exp(x)`` to ``x.exp()``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from lora_graph.ir.op import Op
from lora_graph.ir.value import apply
from lora_graph.ops import arithmetic as a
from lora_graph.ops import logic as q
from lora_graph.ops import reduce as r
from lora_graph.ops import squares as s
from lora_graph.ops import unary as u


def _unary(op: type[Op]) -> Callable[[Any], Any]:
    return _named(op, lambda x: apply(op(), x))


def _binary(op: type[Op]) -> Callable[[Any, Any], Any]:
    return _named(op, lambda a, b: apply(op(), a, b))


def _reduction(op: type[r.Reduction]) -> Callable[..., Any]:
    def function(x: Any, axis: int | Sequence[int] | None = None, keepdims: bool = False) -> Any:
        return x._reduce(op.__name__, axis, keepdims)

    return _named(op, function)


def _named(op: type[Op], function: Callable[..., Any]) -> Callable[..., Any]:
    """``function`` with the name and the docstring of ``op``."""
    function.__doc__ = op.__doc__
    function.__name__ = function.__qualname__ = op.__name__.lower()
    return function


abs, neg, exp, log, sqrt = map(_unary, (u.Abs, u.Neg, u.Exp, u.Log, u.Sqrt))  # noqa: A001
reciprocal, sin, cos, floor, ceil = map(_unary, (u.Reciprocal, u.Sin, u.Cos, u.Floor, u.Ceil))
is_nan, logical_not = map(_unary, (q.IsNaN, q.Not))
add, sub, mul, div, pow, mod = map(_binary, (a.Add, a.Sub, a.Mul, a.Div, a.Pow, a.Mod))  # noqa: A001
equal, greater, less = map(_binary, (q.Equal, q.Greater, q.Less))
greater_or_equal, less_or_equal = map(_binary, (q.GreaterOrEqual, q.LessOrEqual))
logical_and, logical_or, logical_xor = map(_binary, (q.And, q.Or, q.Xor))
reduce_sum, reduce_mean = map(_reduction, (r.ReduceSum, r.ReduceMean))
reduce_max, reduce_min, reduce_prod = map(_reduction, (r.ReduceMax, r.ReduceMin, r.ReduceProd))
reduce_l2, reduce_sum_square, reduce_variance = map(_reduction, (s.ReduceL2, s.ReduceSumSquare, s.ReduceVariance))
