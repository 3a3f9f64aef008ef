"""Dimensions against Python's own integers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_graph.ir import SymbolicDim, dim, input  # noqa: A004
from lora_graph.ir import dims as d

NAMES = ["batch", "h", "w", "time step", "class", "a'b", 'say "x"', "é", "ﬁ", "5", "%", "lambda", "min", "x=1]", "\n"]


def named(name: str) -> SymbolicDim:
    return SymbolicDim((((name,), 1),))


def build(item: Any) -> Any:
    """The dimension that a nested tuple describes."""
    if isinstance(item, int):
        return item
    if isinstance(item, str):
        return named(item)
    function, left, right = item[0], build(item[1]), build(item[2])
    match function:
        case "+":
            return left + right
        case "-":
            return left - right
        case "*":
            return left * right
        case "//":
            return d.divide(left, right)
        case "min":
            return d.minimum(left, right)
    return d.maximum(left, right)


def compute(item: Any, sizes: dict[str, int]) -> int:
    """The same with Python's integers."""
    if isinstance(item, int):
        return item
    if isinstance(item, str):
        return sizes[item]
    left, right = compute(item[1], sizes), compute(item[2], sizes)
    functions = {
        "+": lambda: left + right,
        "-": lambda: left - right,
        "*": lambda: left * right,
        "//": lambda: left // right,
        "min": lambda: min(left, right),
        "max": lambda: max(left, right),
    }
    return functions[item[0]]()


leaf = st.one_of(st.integers(-4, 6), st.sampled_from(NAMES))
divisor = st.one_of(st.integers(1, 5), st.sampled_from(NAMES))
expression = st.recursive(
    leaf,
    lambda inner: st.one_of(
        st.tuples(st.sampled_from(["+", "-", "*", "min", "max"]), inner, inner),
        st.tuples(st.just("//"), inner, divisor),
    ),
    max_leaves=8,
)
sizes = st.fixed_dictionaries({name: st.integers(1, 9) for name in NAMES})


@settings(max_examples=150, deadline=None)
@given(expression, sizes)
def test_arithmetic_is_that_of_integers(item: Any, binding: dict[str, int]) -> None:
    value = build(item)
    expected = compute(item, binding)
    assert d.evaluate(value, binding) == expected
    assert d.substitute(value, binding) == expected  # type: ignore[arg-type]
    assert set(d.names(value)) <= set(NAMES)


@settings(max_examples=150, deadline=None)
@given(expression, sizes)
def test_text_reads_back(item: Any, binding: dict[str, int]) -> None:
    value = build(item)
    if isinstance(value, int):
        assert dim(str(abs(value))) == abs(value)
    else:
        again = dim(str(value))
        assert again == value
        assert hash(again) == hash(value)
        assert str(again) == str(value)


@settings(max_examples=100, deadline=None)
@given(expression, expression, sizes)
def test_equal_polynomials_are_equal_dimensions(left: Any, right: Any, binding: dict[str, int]) -> None:
    a, b = build(left), build(right)
    assert (a + b) * (a - b) == a * a - b * b
    assert a + b == b + a
    assert d.minimum(a, b) == d.minimum(b, a)
    assert d.evaluate(d.minimum(a, b), binding) == min(compute(left, binding), compute(right, binding))
    if d.is_size(a):
        assert compute(left, binding) >= 0


@settings(max_examples=100, deadline=None)
@given(expression, divisor)
def test_exact_quotient_undoes_multiplication(item: Any, by: Any) -> None:
    value, factor = build(item), build(by)
    assert d.exact_quotient(value * factor, factor) == value
    assert d.divide(value * factor, factor) == value


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ("2*h+h", "3*h"),
        ("h*3", "3*h"),
        ("(h-1)//2+1", "((h-1)//2)+1"),
        ("w*h", "h*w"),
        ("h-h", "0"),
        ("4*h//2", "2*h"),
        ("min(h, h+2)", "h"),
        ("max(0, h)", "h"),
        ("min(h, w)", "min(h,w)"),
        ("'time step'*2", "2*'time step'"),
        ("1-h", "-h+1"),
        ("5//2", "2"),
        ("(2*h+1)//2", "h"),
        ("(2*h+w-1)//2", "h+((w-1)//2)"),
    ],
)
def test_normal_form(spec: str, text: str) -> None:
    assert str(dim(spec)) == text


def test_what_is_no_dimension() -> None:
    for wrong in (True, 1.5, None, [3]):
        with pytest.raises(TypeError, match="a dimension is an int or a name"):
            dim(wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="cannot be negative, got -3"):
        dim(-3)
    for unreadable in ("h+", "h/2", "f(h)", "h**2", "", "1.5", "True", "h//0", "h;h"):
        with pytest.raises(ValueError, match="cannot read the dimension"):
            dim(unreadable)
    with pytest.raises(KeyError):
        d.evaluate(dim("h+w"), {"h": 2})


def test_plain_names() -> None:
    assert d.plain_name(dim("h")) == "h"
    assert d.plain_name(named("time step")) == "time step"
    assert [d.plain_name(dim(spec)) for spec in ("2*h", "h+w", "h*w", 3)] == [None] * 4


def test_a_dimension_and_a_value_are_a_value() -> None:
    x = input("x", np.float32, ("batch", 2))
    batch = x.shape[0]
    for product, name in ((batch * x, "Mul"), (batch + x, "Add")):
        assert (product.op.name, product.type, product.operands[1]) == (name, x.type, x)
    with pytest.raises(TypeError, match="unsupported operand"):
        batch * 0.5
