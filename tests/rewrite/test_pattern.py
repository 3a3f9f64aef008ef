"""Patterns: holes, literals, attributes, commutative ops, and the Values inside a match."""

from __future__ import annotations

from typing import Any

import pytest

from lora_graph import ops
from lora_graph.ir import OPS, Value, constant
from lora_graph.rewrite import Hole, Pattern, any_op, rule

Add, Mul, Sub, Transpose = (OPS[name] for name in ("Add", "Mul", "Sub", "Transpose"))
X, Y = (ops.input(name, "float64", ("batch", 4)) for name in "xy")
a, b = Hole("a"), Hole("b")


def matches(pattern: Pattern, value: Value) -> list[dict[str, Value]]:
    return list(pattern.match(value, {}))


def test_a_hole_matches_anything_and_binds_it() -> None:
    assert matches(a - b, X - Y) == [{"a": X, "b": Y}]


def test_a_repeated_hole_matches_one_value_only() -> None:
    assert matches(a - a, X - X) == [{"a": X}]
    assert matches(a - a, X - Y) == []


def test_a_hole_may_be_choosy() -> None:
    scalar = Hole("s", lambda value: value.shape == ())
    assert matches(scalar - a, X - Y) == []
    assert len(matches(scalar - a, ops.input("t", "float64") - Y)) == 1


def test_commutative_ops_match_in_both_orders_and_equal_operands_once() -> None:
    assert matches(a + b, X + Y) == [{"a": X, "b": Y}, {"a": Y, "b": X}]
    assert matches(a + b, X + X) == [{"a": X, "b": X}]
    assert matches(a - b, X - Y) == [{"a": X, "b": Y}]


def test_commutative_ops_inside_one_another() -> None:
    pattern = (a * 2.0) + b
    assert matches(pattern, Y + 2.0 * X) == [{"a": X, "b": Y}]
    assert len(matches(pattern, X * 2.0 + 2.0 * Y)) == 2


@pytest.mark.parametrize("number", [0.0, -0.0, 0])
def test_a_literal_compares_numbers_so_both_zeros_match(number: float) -> None:
    assert len(matches(a - 0.0, X - constant(number, "float64"))) == 1


@pytest.mark.parametrize(("array", "dtype", "number", "expected"), [
    ([2.0, 2.0, 2.0, 2.0], "float64", 2.0, True),
    ([2.0, 2.0, 2.0, 3.0], "float64", 2.0, False),
    (0.1, "float32", 0.1, True),
    (0.1, "float64", 0.1 + 1e-16, False),
    (1, "int64", 1.0, True),
    (0, "int64", 0.5, False),
    (255, "uint8", -1.0, False),
    (float("nan"), "float64", float("nan"), False),
])  # fmt: skip
def test_what_a_literal_matches(array: Any, dtype: str, number: float, expected: bool) -> None:
    x = ops.input("x", dtype, (4,))
    assert bool(matches(a + number, x + constant(array, dtype))) is expected


def test_a_literal_matches_neither_an_empty_constant_nor_a_parameter() -> None:
    empty = ops.input("x", "float64", (0,))
    assert matches(a + 0.0, empty + constant([], "float64")) == []
    assert matches(a + 0.0, X + ops.parameter("p", "float64")) == []


def test_attributes_have_to_agree_unless_any_op() -> None:
    assert matches(a.T, X.T) == [{"a": X}]
    assert matches(a.T, X.transpose(0, 1)) == []
    assert matches(any_op(Transpose, a, name="t"), X.transpose(0, 1)) == [{"a": X, "t": X.transpose(0, 1)}]


def test_a_repeated_name_binds_one_value_only() -> None:
    pattern = any_op(Sub, any_op(Mul, a, b, name="m"), any_op(Mul, a, b, name="m"))
    assert matches(pattern, X * Y - Y * X) == []
    assert {found["m"] for found in matches(pattern, X * Y - X * Y)} == {X * Y}


def test_arity_counts() -> None:
    assert matches(any_op(Add, a), X + Y) == []


def test_the_interior_is_what_lies_between_root_and_holes() -> None:
    pattern = any_op(Add, any_op(Mul, a, 2.0), any_op(Mul, a, b))
    value = Y * X + X * 2.0
    found = [set(pattern.interior(value, bindings)) for bindings in pattern.match(value, {})]
    assert {X * 2.0, Y * X} in found
    assert all(X not in interior and value not in interior for interior in found)


def test_heads_never_exclude_a_match() -> None:
    pattern = any_op(Add, any_op(Mul, a, b), 1.0)
    for value in (X * Y + 1.0, 1.0 + X * Y):
        assert pattern.fits(tuple(type(operand.op) for operand in value.operands))
        assert matches(pattern, value)
    assert not pattern.fits((Add, Mul))
    assert not pattern.fits((Mul,))


def test_a_rule_needs_an_op_at_its_root() -> None:
    with pytest.raises(TypeError, match="nothing must be an op at its root"):

        @rule(lambda x: x)
        def nothing(facts: object, x: Value) -> None: ...
