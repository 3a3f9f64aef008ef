"""Types, broadcasting, and what is assumed of dimensions that cannot be compared."""

from __future__ import annotations

import numpy as np
import pytest

from lora_graph.ir import Graph, dim, input, tensor  # noqa: A004
from lora_graph.ir.types import assumptions, broadcast, meet, normalize_axis


def shape(*items: int | str) -> tuple[object, ...]:
    return tensor(np.float32, items).shape


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        (("batch", 3), (3,), ("batch", 3)),
        (("batch", 1), (1, 3), ("batch", 3)),
        ((), ("batch",), ("batch",)),
        ((1,), ("batch",), ("batch",)),
        ((2, 1, 4), (3, 1), (2, 3, 4)),
        (("2*h",), ("h*2",), ("2*h",)),
        ((0,), (1,), (0,)),
    ],
)
def test_broadcast(left: tuple[int, ...], right: tuple[int, ...], expected: tuple[int, ...]) -> None:
    for a, b in ((left, right), (right, left)):
        with assumptions() as collected:
            assert broadcast(shape(*a), shape(*b), "test") == shape(*expected)  # type: ignore[arg-type]
        assert collected == []


@pytest.mark.parametrize(("left", "right"), [((2,), (3,)), ((0,), (2,)), (("h",), ("h+1",)), ((3, 2), (3,))])
def test_shapes_that_differ_are_an_error_naming_both(left: tuple[int, ...], right: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"shapes \[.*\] and \[.*\] do not broadcast"):
        broadcast(shape(*left), shape(*right), "test")  # type: ignore[arg-type]


def test_a_named_dimension_never_broadcasts() -> None:
    """``batch`` may turn out to be 1 when the graph runs, but it then has to be 1 on both sides."""
    a, b = input("a", np.float32, ("batch", 3)), input("b", np.float32, ("time", 3))
    graph = Graph((a, b), {"y": a + b})
    assert graph.assumptions == [(dim("batch"), dim("time"))]
    fixed = Graph((a, input("c", np.float32, (5, 3))), {"y": a + input("c", np.float32, (5, 3))})
    assert fixed.assumptions == [(dim("batch"), 5)]
    assert fixed.outputs["y"].shape == (5, 3)
    assert Graph((a,), {"y": a + a.sum(axis=0)}).assumptions == []


def test_meet() -> None:
    assert meet(dim("h"), dim("h"), "test") == dim("h")
    assert meet(dim("h"), 4, "test") == meet(4, dim("h"), "test") == 4
    with pytest.raises(ValueError, match="test: dimension h does not equal h\\+1"):
        meet(dim("h"), dim("h+1"), "test")


def test_assumptions_are_collected_only_inside() -> None:
    with assumptions() as outer:
        meet(dim("a"), dim("b"), "test")
        with assumptions() as inner:
            meet(dim("c"), dim("d"), "test")
    meet(dim("e"), dim("f"), "test")
    assert outer == [(dim("a"), dim("b"))]
    assert inner == [(dim("c"), dim("d"))]


def test_binding_and_size() -> None:
    kind = tensor(np.float32, ("batch", "2*time+1", 3))
    assert kind.bind({"batch": 2, "time": 4}) == tensor(np.float32, (2, 9, 3))
    assert str(kind) == repr(kind) == "float32[batch, 2*time+1, 3]"
    assert kind.size == dim("batch*(2*time+1)*3")
    assert (kind.is_static, kind.bind({"batch": 2, "time": 4}).is_static) == (False, True)
    assert [tensor(t).is_float for t in (np.float16, np.float64, np.int32, np.bool_)] == [True, True, False, False]


def test_axes() -> None:
    assert [normalize_axis(axis, 3, "test") for axis in (0, 2, -1, -3)] == [0, 2, 2, 0]
    for axis in (3, -4):
        with pytest.raises(ValueError, match=f"test: axis {axis} is out of range for 3 dimensions"):
            normalize_axis(axis, 3, "test")
    for wrong in (True, 1.0, "0"):
        with pytest.raises(TypeError, match="axis must be an int"):
            normalize_axis(wrong, 3, "test")  # type: ignore[arg-type]
